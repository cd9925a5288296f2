"""What is said of a comparison, one sentence each; every "no comparison" names the reference."""

from kdtune.answers.simultaneous import ALPHA

REFERENCES = {"student": "the student alone", "pi": "L_PI alone"}


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign, none for what is 0 so rounded."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def probability(p: float) -> str:
    """A p-value to two digits, or to as many as tell it from the level that it is judged by."""
    if p < 0.001:
        return "< 0.001"
    texts = [f"{p:.{digits}g}" for digits in range(2, 17)]
    return next((text for text in texts if (float(text) < ALPHA) == (p < ALPHA)), texts[-1])


def equation(p: float) -> str:
    """``p = 0.012``."""
    text = probability(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def lacking(reference: str) -> str:
    """There is no such reference."""
    return f"no comparison with {REFERENCES[reference]}: stage 'final' has no trial of it"


def lost(reference: str, why: str) -> str:
    """The method, or the reference, has not all of its runs."""
    return f"no comparison with {REFERENCES[reference]}: {why}"


def single(reference: str, difference: float) -> str:
    """One run has no deviation."""
    few = "one seed has no deviation, so that nothing tells it from chance; run several"
    return f"{signed(difference)} points against {REFERENCES[reference]}: {few}"


def same(reference: str, difference: float) -> str:
    """No run deviates from the model."""
    words = "without any deviation between seeds: there is no interval, and no test"
    return f"{signed(difference)} points against {REFERENCES[reference]}, {words}"


def so_far(reference: str, difference: float, progress: str) -> str:
    """The comparison is not complete."""
    return (
        f"{signed(difference)} points against {REFERENCES[reference]} so far: provisional, {progress} trials of stage "
        "'final' have ended"
    )


def verdict(reference: str, difference: float, p: float, reach: float, over: str) -> str:
    """What the seeds tell; ``reach``: half of the interval, ``over``: comparisons and seeds in words."""
    named = REFERENCES[reference]
    if p < ALPHA:
        kind = "a gain over" if difference > 0 else "a loss against"
        return f"{kind} {named} of {abs(difference):.2f} points ({equation(p)}, {over})"
    return (
        f"{signed(difference)} points against {named}: not distinguishable from chance ({equation(p)}, {over}); from "
        f"{reach:.2f} points on it would be"
    )


def scattering(reference: str, p: float) -> str:
    """The reference scatters more than the rest."""
    return (
        f"{REFERENCES[reference]} scatters more from seed to seed than the rest (F test of its variance, p = {p:.2g}): "
        "it has a deviation of its own here, which makes these intervals wider"
    )


def findable(least: float | None, seeds_needed: int | None) -> str:
    """What such a comparison can find; empty where that is not known."""
    if least is None:
        return ""
    more = f"{seeds_needed} seeds a method" if seeds_needed is not None else "more than 1,000 seeds a method"
    return (
        f"a gain over {REFERENCES['student']} of {least:.2f} points is found by such a comparison with a probability "
        f"of 80 %; one of half a point would need {more}"
    )


def unequal(alone: int, most: int) -> str:
    """The student was tuned less than a method."""
    return (
        f"{REFERENCES['student']} was chosen among {alone} trials, other methods among up to {most}: more trials raise "
        "the best of them by chance alone"
    )


def of_groups(apart: float) -> str:
    """What the groups of a ranking are."""
    return (
        f"methods that share a group cannot be told apart: two differ from {apart:.2f} points on, all pairs compared "
        "at once"
    )


def lead(best: str, found: float, by_chance: float, methods: int) -> str:
    """What choosing the best is worth by chance."""
    return (
        f"{best}, the best of {methods}, lies {found:.2f} points above their mean; the best of as many equal methods "
        f"would lie {by_chance:.2f} above it by chance alone"
    )


def no_images(why: str) -> str:
    """There is no interval of other images."""
    return f"no intervals for other images: {why}"


def of_images(over: str) -> str:
    """What the intervals of other images are made of."""
    return (
        f"'other images': 95 % intervals of these runs on other images like these, simultaneous, by a paired bootstrap "
        f"over {over}"
    )


def in_doubt(p: float | None, low: float, high: float) -> bool:
    """Whether a difference that seeds tell from chance may be one of these images only."""
    return p is not None and p < ALPHA and low <= 0.0 <= high


def doubted(method: str, reference: str) -> str:
    """Other seeds would show the difference again, other images perhaps not."""
    return (
        f"{method}: that it differs from {REFERENCES[reference]} is sure of other seeds, not of other images, whose "
        "interval holds 0"
    )


BOTH_COVERED = "The first interval is of other training seeds on these images, the second of these runs on other images"
COVERED = "95 % intervals are of other training seeds on these validation images, not of other images"
CORRECTED = "p and intervals hold for all of these comparisons with the student alone at once"
HOLM = "p, Holm: of each method's own paired test over the shared seeds, corrected by Holm's rule; no common deviation"
WAITING = "provisional: not all trials of stage 'final' have ended, so there is no p and no verdict yet"
