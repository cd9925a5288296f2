"""What stages wait for, and their longest chain, counted by hand."""

from kdtune.study.file import load_study
from kdtune.study.graph import chains, graph, told

NAME = "cityscapes-resnet"


def test_each_method_of_the_comparison_waits_for_its_own_start() -> None:
    study = load_study("demo")
    waits = graph(study, study.stages)
    assert waits["teacher"].stages == set()
    assert waits["final"].starts["student"] == {"student", "pretrain"}
    assert waits["final"].starts["weight-pa"] == {"weight-pa", "teacher", "pretrain"}
    assert waits["final"].blocked_by({"teacher", "pretrain", "student", "weight-pi", "weight-ho"}) == {
        "weight-pa",
        "weight-ifv",
    }


def test_what_is_not_looked_at_is_not_waited_for() -> None:
    study = load_study(NAME)
    waits = graph(study, [study.stage(name) for name in ("temperature", "final")])
    assert waits["temperature"].stages == set()
    assert waits["final"].stages == set()


def test_the_longest_chain() -> None:
    """Steps of a trial: 40,000. At once: 32 hold every stage; 8 need 2, 3, 1, 1 and 1 rounds of the stages below."""
    study = load_study(NAME)
    waits = graph(study, study.stages)
    longest = chains(waits, 32)["distill"]
    assert longest.stages == ("distill", "temperature", "weight-pi", "weight-pa", "final")
    assert longest.steps == 5 * 40_000
    assert chains(waits, 8)["distill"].steps == (2 + 3 + 1 + 1 + 1) * 40_000
    assert chains(waits, 8)["student"].stages == ("student", "final")  # three of its 15 trials, or four of 8
    assert chains(waits, 8)["student"].steps == (2 + 1) * 40_000
    assert told(waits, 32) == [
        "temperature waits for distill",
        "weight-pi waits for temperature",
        "weight-pa, weight-ho, weight-ifv wait for weight-pi",
        "final waits for student, weight-pa, weight-ho, weight-ifv (each start apart)",
        "initialization waits for student, weight-pi (each start apart)",
        "longest chain, 32 at once: distill > temperature > weight-pi > weight-pa > final, 200,000 steps",
    ]


def test_the_longer_student_comes_after_all_others_of_its_stage() -> None:
    """Its trials are as long as the others, or longer; how long is not known before."""
    study = load_study(f"{NAME}-terms")
    waits = graph(study, study.stages)
    assert (waits["final"].trials, waits["final"].following) == (43 * 3, 3)
    longest = chains(waits)["distill"]
    assert (longest.stages[-1], longest.steps) == ("final", (3 + 2) * 40_000)
    assert "final's longer student waits for all others of it" in told(waits)
