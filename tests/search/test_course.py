"""In which order trials are handed out, without Ray: the course is told of each end by the test."""

from collections import deque
from collections.abc import Mapping, Sequence

import pytest

from kdtune.search.course import Course, Labels, Listed, MadeAgain, Offer
from kdtune.search.stage_context import NoStart
from kdtune.study.graph import Waits

NEEDS = {  # stage -> start -> what it waits for
    "teacher": {"base": ()},
    "student": {"base": ()},
    "distill": {"base": ("teacher",)},
    "final": {"student": ("student",), "distill": ("distill", "teacher")},
}
TRIALS = {"teacher": 1, "student": 2, "distill": 3, "final": 4}


class Stages:
    """Opens and closes, and keeps in which order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.nothing: set[str] = set()  # stages that come to nothing
        self.damaged: set[str] = set()  # stages whose weights are to be made again

    def open(self, name: str, starts: Sequence[str]) -> Listed:
        for start in starts:
            if start in self.nothing:
                raise NoStart(f"stage '{start}' has no completed configuration")
        if name == "distill" and self.damaged:
            damaged, self.damaged = self.damaged, set()
            raise MadeAgain(damaged)
        self.told += [f"{name} from {start}" for start in starts]
        each = TRIALS[name] // len(NEEDS[name])
        ids = [f"{name}-{start}{i}" for start in starts for i in range(each)]
        return Listed(deque(Offer(id_, {"stage": name}) for id_ in ids))

    def close(self, name: str) -> None:
        self.told.append(f"{name} ends")


def course(
    stages: Stages,
    slots: int = 2,
    running: Sequence[str] = tuple(NEEDS),
    labels: Mapping[str, Labels] | None = None,
    at_once: int | None = None,
) -> Course:
    waits = {
        name: Waits(name, {start: frozenset(needed) for start, needed in needs.items()}, TRIALS[name], 10)
        for name, needs in NEEDS.items()
    }
    return Course(waits, running, stages.open, stages.close, lambda name: slots, labels=labels, at_once=at_once)


def handed(way: Course) -> list[str]:
    """All that may begin now."""
    found = []
    while (offer := way.next("tune")) is not None:
        found.append(offer.trial_id)
    return found


def end(way: Course, *trials: str) -> list[str]:
    """These end; what begins then."""
    for trial in trials:
        way.ended(trial.split("-")[0], trial)
    return handed(way)


def test_the_longest_chain_goes_first_and_the_rest_fills_the_slots() -> None:
    stages = Stages()
    way = course(stages)
    assert way.advance()
    assert handed(way) == ["teacher-base0", "student-base0"]
    assert end(way, "teacher-base0") == ["distill-base0"]  # before the student's last
    assert end(way, "student-base0", "distill-base0") == ["distill-base1", "distill-base2"]
    assert end(way, "distill-base1") == ["student-base1"]
    assert end(way, "student-base1") == ["final-student0"]  # while distill still runs
    assert end(way, "final-student0") == ["final-student1"]
    assert end(way, "distill-base2") == ["final-distill0"]
    assert end(way, "final-student1") == ["final-distill1"]
    assert end(way, "final-distill0") == []
    assert way.advance()
    assert end(way, "final-distill1") == []
    assert not way.advance()
    way.refuse_faults()
    assert stages.told == [
        *("teacher from base", "student from base", "teacher ends", "distill from base"),
        *("student ends", "final from student", "distill ends", "final from distill", "final ends"),
    ]


def test_only_the_stages_that_were_asked_for() -> None:
    stages = Stages()
    way = course(stages, slots=9, running=["final"])
    assert len(handed(way)) == 4
    assert stages.told == ["final from student", "final from distill"]


def test_a_stage_that_comes_to_nothing_stops_only_what_waits_for_it() -> None:
    stages = Stages()
    stages.nothing = {"distill"}
    way = course(stages, slots=9)
    handed(way)
    end(way, "teacher-base0")
    end(way, *(f"distill-base{i}" for i in range(3)))
    assert end(way, "student-base0", "student-base1") == ["final-student0", "final-student1"]
    assert end(way, "final-student0", "final-student1") == []
    assert not way.advance()
    assert "final ends" not in stages.told
    with pytest.raises(NoStart, match="'distill' has no completed"):
        way.refuse_faults()


def test_what_is_judged_together_does_not_begin_in_part() -> None:
    stages = Stages()
    stages.nothing = {"distill"}
    both = frozenset({"student", "distill"})
    waits = {
        "student": Waits("student", {"base": frozenset()}, 2, 10),
        "distill": Waits("distill", {"base": frozenset()}, 3, 10),
        "final": Waits("final", {"student": both, "distill": both}, 4, 10),
    }
    way = Course(waits, ["final"], stages.open, stages.close, lambda name: 9)
    assert handed(way) == []
    assert not way.advance()
    with pytest.raises(NoStart, match="'distill' has no completed"):
        way.refuse_faults()


def test_what_made_damaged_weights_runs_again_first() -> None:
    """Though it is none of the stages that this launch runs."""
    stages = Stages()
    stages.damaged = {"teacher"}
    way = course(stages, slots=9, running=["distill"])
    assert handed(way) == ["teacher-base0"]
    assert end(way, "teacher-base0") == [f"distill-base{i}" for i in range(3)]


def test_no_more_at_once_than_asked_for_and_than_nodes_hold() -> None:
    assert len(handed(course(Stages(), slots=9, at_once=3))) == 3
    fast = frozenset({("kind", "fast")})
    way = course(Stages(), slots=2, labels={"student": fast})
    assert handed(way) == ["teacher-base0", "student-base0", "student-base1"]  # the latter on nodes of that kind
