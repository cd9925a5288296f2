"""The trials of each stage of a launch, as they are planned: from starts that are decided, and those that follow."""

from dataclasses import dataclass, field

from kdtune.search.ledger import Ledger
from kdtune.search.longer import longer, so_far
from kdtune.search.stage_context import Point, StageContext
from kdtune.search.widening import further


@dataclass
class Plans:
    """Of one launch; the ledger holds them as lists of ids."""

    ledger: Ledger
    points: dict[str, dict[str, dict[str, Point]]] = field(default_factory=dict)  # stage -> start -> id -> point
    # stage -> those that follow from what the others came to: beyond the border of its axis, or the longer student
    further: dict[str, dict[str, Point]] = field(default_factory=dict)

    def plan(self, context: StageContext, seed: int) -> dict[str, Point]:
        """The points of these starts by id, once their stage's plan holds them; without those of other starts."""
        name, stage = context.stage.name, context.stage
        known = self.points.setdefault(name, {})
        before = {id_ for start, points in known.items() if start not in context.starts for id_ in points}
        found: dict[str, Point] = {}
        for start in context.starts:
            known[start] = {}
            for point in stage.points([start], seed):
                known[start].setdefault(context.planned(point).trial_id, point)
            found = {**known[start], **found}
        ids, starts = dict[str, None](), dict[str, str]()
        for start in stage.start_from or known:
            if start in known:
                starts = {**dict.fromkeys(known[start], start), **starts}
            ids |= dict.fromkeys(known.get(start) or self.ledger.planned_from(name, start))
        self.further[name] = self._further(context)
        self.ledger.set_plan(name, list(ids | dict.fromkeys(self.further[name])), starts)
        return {id_: point for id_, point in found.items() if id_ not in before}

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
