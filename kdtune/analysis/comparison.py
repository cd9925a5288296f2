"""Two networks from files on the same validation images: their difference, and its interval for other images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kdtune.analysis.evaluation import Measured, evaluate, write_rows
from kdtune.answers.other_images import OtherImages, Run, bootstrap
from kdtune.answers.verdicts import signed
from kdtune.base import UserError
from kdtune.records.rows import absent_note
from kdtune.study.trial_config import Value
from kdtune.training.site import Site


@dataclass(frozen=True)
class Compared:
    """What two networks make of a dataset's validation images, and how sure their difference is of other images."""

    files: tuple[str, str]
    measured: tuple[Measured, Measured]
    images: OtherImages

    @property
    def gain(self) -> float:
        """The second network's mIoU less the first one's [points]."""
        first, second = self.measured
        return second.miou - first.miou

    @property
    def interval(self) -> tuple[float, float] | None:
        """The gain's 95 % interval [points]; none where the images do not tell."""
        return self.images.intervals.get(_SECOND)

    def write(self, file: str) -> None:
        """A row of Parquet for each network, the gain and its interval in the second's; see ``write_rows``."""
        low, high = self.interval or (None, None)
        gains = [
            dict.fromkeys(("gain", "gain_low", "gain_high")),
            {"gain": self.gain, "gain_low": low, "gain_high": high},
        ]
        rows = zip(self.files, self.measured, gains, strict=True)
        write_rows([{"checkpoint": name} | each.row() | gain for name, each, gain in rows], file)

    def lines(self) -> Iterator[str]:
        """For a person."""
        first, second = self.measured
        names = [*first.config.dataset.class_names, "mIoU"]
        width = max(map(len, names))
        yield f"A: {self.files[0]}"
        yield f"B: {self.files[1]}"
        yield f"{'IoU [%]':{width}} {'A':>6} {'B':>6}  B - A"
        pairs = zip([*first.per_class_iou, first.miou], [*second.per_class_iou, second.miou], strict=True)
        for name, (ours, theirs) in zip(names, pairs, strict=True):
            shown = ("absent" if iou is None else f"{iou:6.2f}" for iou in (ours, theirs))
            gain = "" if ours is None or theirs is None else f"{signed(theirs - ours):>6}"
            yield f"{name:{width}} {' '.join(shown)} {gain}".rstrip()
        notes = [absent_note(first.config.dataset.class_names, each.per_class_iou) for each in self.measured]
        yield from (f"{letter}: {note}" for letter, note in zip("AB", notes, strict=True) if note)
        yield self._told()
        for letter, each in zip("AB", self.measured, strict=True):
            yield from (f"{letter}: {line}" for line in each.costs())

    def _told(self) -> str:
        if self.interval is None:
            return f"no interval for other images: {self.images.words}"
        low, high = self.interval
        doubt = ", which holds 0: on other images there may be no difference" if low <= 0.0 <= high else ""
        return (
            f"on other images like these the difference in mIoU is {signed(low)} to {signed(high)} points (95 %, "
            f"paired bootstrap over {self.images.words}){doubt}; it is of these two networks, not of other training "
            "seeds"
        )


_FIRST, _SECOND = "A", "B"


def compare(
    checkpoints: Sequence[str],
    dataset: str,
    site: Site,
    settings: Mapping[str, Value],
    models: Sequence[str] = (),
    country: str = "DEU",
) -> Compared:
    """Evaluates two networks, see ``evaluate``. ``models``: none, one for both, or one of each.

    Raises:
        UserError: as ``evaluate``.
    """
    if len(models) > 2:
        raise UserError("--model: give it once for both networks, or once for each")
    first, second = (models[0], models[-1]) if models else (None, None)
    a = evaluate(checkpoints[0], dataset, site, settings, first, country, of_images=True)
    b = evaluate(checkpoints[1], dataset, site, settings, second, country, of_images=True)
    runs = {name: [_run(each)] for name, each in ((_FIRST, a), (_SECOND, b))}
    return Compared((checkpoints[0], checkpoints[1]), (a, b), bootstrap(runs, _FIRST))


def _run(measured: Measured) -> Run:
    assert measured.counts is not None
    config = measured.config
    return Run(measured.counts, config.dataset.num_classes, config.recipe.absent_classes)
