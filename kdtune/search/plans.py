"""The trials of each stage of a launch, as they are planned: from starts that are decided, and beyond the border."""

from dataclasses import dataclass, field

from kdtune.search.ledger import Ledger
from kdtune.search.stage_context import Point, StageContext
from kdtune.search.widening import further


@dataclass
class Plans:
    """Of one launch; the ledger holds them as lists of ids."""

    ledger: Ledger
    points: dict[str, dict[str, dict[str, Point]]] = field(default_factory=dict)  # stage -> start -> id -> point
    further: dict[str, dict[str, Point]] = field(default_factory=dict)  # stage -> those beyond the border of its axis

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
        self.further[name] = further(context, self.ledger.records)
        self.ledger.set_plan(name, list(ids | dict.fromkeys(self.further[name])), starts)
        return {id_: point for id_, point in found.items() if id_ not in before}

    def ids(self, name: str) -> list[str]:
        """The trials of a stage that are known by now, without those beyond the border."""
        return list(dict.fromkeys(id_ for points in self.points.get(name, {}).values() for id_ in points))
