"""The trials of each stage of a launch, as they are planned: from starts that are decided, and those that follow."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kdtune.search.conditions import Conditions
from kdtune.search.ledger import Ledger
from kdtune.search.longer import longer, so_far
from kdtune.search.stage_context import Point, StageContext
from kdtune.search.widening import further
from kdtune.study.schedulers import stands
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Stage


@dataclass
class Plans:
    """Of one launch; the ledger holds them as lists of ids."""

    ledger: Ledger
    conditions: Conditions
    unchanged: bool  # whether the last launch was of the same study, by the same kdtune, and nothing runs again
    points: dict[str, dict[str, dict[str, Point]]] = field(default_factory=dict)  # stage -> start -> id -> point
    # stage -> those that follow from what the others came to: beyond the border of its axis, or the longer student
    further: dict[str, dict[str, Point]] = field(default_factory=dict)

    def plan(self, context: StageContext, study: StudySpec) -> dict[str, Point]:
        """The points of these starts by id, once their stage's plan holds them; without those of other starts."""
        name, stage = context.stage.name, context.stage
        known = self.points.setdefault(name, {})
        before = {id_ for start, points in known.items() if start not in context.starts for id_ in points}
        found: dict[str, Point] = {}
        for start in context.starts:
            points = [*stage.points([start], study.seed)]
            known[start] = {}
            for id_, point in zip(self._ids(context, study, start, points), points, strict=True):
                known[start].setdefault(id_, point)
            found = {**known[start], **found}
        self.further[name] = self._further(context)
        self._note(stage)
        return {id_: point for id_, point in found.items() if id_ not in before}

    def without_left_out(self, stage: Stage, starts: Sequence[str]) -> tuple[list[str], str | None]:
        """Those of these starts from which the stage has trials; of the others, why not: the plan has none."""
        whole = self.conditions.left_out(stage.name)
        why = {start: whole or self.conditions.lacking(stage.name, start) for start in starts}
        gone = [start for start in starts if why[start]]
        if not gone:
            return [*starts], None
        self.points.setdefault(stage.name, {}).update({start: {} for start in gone})
        self._note(stage)
        what = stage.name if whole else f"{stage.name} from {', '.join(gone)}"
        return [start for start in starts if start not in gone], f"{what}: left out, since {why[gone[0]]}"

    def _note(self, stage: Stage) -> None:
        """Tells the ledger the stage's plan, as far as it is known."""
        name, known = stage.name, self.points[stage.name]
        ids, starts = dict[str, None](), dict[str, str]()
        for start in stage.start_from or known:
            if start in known:
                starts = {**dict.fromkeys(known[start], start), **starts}
            ids |= dict.fromkeys(known[start] if start in known else self.ledger.planned_from(name, start))
        self.ledger.set_plan(name, list(ids | dict.fromkeys(self.further.get(name, ()))), starts)

    def _further(self, context: StageContext) -> dict[str, Point]:
        stage, known = context.stage, self.points[context.stage.name]
        if stage.longer is None:
            return further(context, self.ledger.records)
        if stage.longer not in context.starts:  # at the end all starts are
            return self.further.get(stage.name, {})
        planned = {id_: point for points in known.values() for id_, point in points.items()}
        found = longer(context, planned, self.ledger.records) if known.keys() >= {*stage.start_from} else {}
        return found or so_far(context, self.ledger.past(stage.name))

    def ids(self, name: str) -> list[str]:
        """The trials of a stage that are known by now, without those that follow from others."""
        return list(dict.fromkeys(id_ for points in self.points.get(name, {}).values() for id_ in points))

    def _ids(self, context: StageContext, study: StudySpec, start: str, points: Sequence[Point]) -> list[str]:
        """The trials at all points of a start: those of the last launch where they stand, and are still the same.

        Ten thousand configurations take a second to make, so that is seen at one point of each kind: with the same
        words, and the same of its numbers zero. Which files a configuration reads hangs on nothing else.
        """
        ids = self.ledger.planned_from(context.stage.name, start) if self.unchanged else []
        rule = study.scheduler_of(context.stage)
        if len(ids) == len(points) and all(stands(self.ledger.records[id_]["row"]["status"], rule) for id_ in ids):
            kinds = {_kind(point): i for i, point in enumerate(points)}
            if all(context.planned(points[i]).trial_id == ids[i] for i in {0, *kinds.values()}):
                return ids
        return [context.planned(point).trial_id for point in points]


def _kind(point: Point) -> str:
    return repr([bool(value) if isinstance(value, int | float) else value for value in point.values()])
