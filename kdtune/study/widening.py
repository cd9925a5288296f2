"""What lies beyond the border of a stage's one axis: tried where the best of the stage is at the border."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]  # dotted path -> value: a point of the axis; several paths where values change together


def axis(grid: Mapping[str, Sequence[Any]], together: Sequence[Entry]) -> list[Entry]:
    """The points of the one axis that is searched; none where there is more than one, or less than two points."""
    searched = [path for path, values in grid.items() if len(values) > 1]
    if together:
        return [*together] if len(together) > 1 and not searched else []
    return [{searched[0]: value} for value in grid[searched[0]]] if len(searched) == 1 else []


def beyond(points: Sequence[Entry], best: Entry) -> Entry | None:
    """The point that is as many times the best as that is of its neighbour; none if the best is not at the border.

    Nothing lies beyond a value that is no number above 0, or whose neighbour is none.
    """
    path = next(iter(best))
    if not all(isinstance(value, int | float) for point in points for value in point.values()):
        return None
    ordered = sorted(points, key=lambda point: float(point[path]))
    at = ordered.index(best)
    if len(ordered) < 2 or 0 < at < len(ordered) - 1:
        return None
    neighbour = ordered[1] if at == 0 else ordered[-2]
    if min(*best.values(), *neighbour.values()) <= 0:
        return None
    return {path: _plain(value * value / neighbour[path]) for path, value in best.items()}


def all_beyond(points: Sequence[Entry], times: int) -> Iterator[Entry]:
    """All that may be tried, if the best is always at the border: so many points on either side."""
    for last in (min, max):
        known = [*points]
        for _ in range(times if known else 0):
            path = next(iter(known[0]))
            further = beyond(known, last(known, key=lambda point: point[path]))
            if further is None:
                break
            known.append(further)
            yield further


def _plain(value: float) -> float | int:
    """As a person would write it."""
    found = float(f"{value:.6g}")
    return int(found) if found.is_integer() and abs(found) >= 1 else found
