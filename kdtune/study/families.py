"""A family in a study file: one entry of ``stages`` for many loss terms, written out as a stage for each of them.

This happens to the file's tree and data, before anything else sees the stages: to the rest of kdtune there are only
plain stages, and every line of a fault is that of the file.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from kdtune.losses import LOSSES

KEY = "for_each"
PLACE = "{name}"
WEIGHTS = 5  # of each member where the family says nothing
# the keys that a plain stage does not have, as ``kdtune studies fields`` tells them: type, default
OWN = {
    KEY: ("list of names or mappings", "null"),
    "weights": ("whole number > 0 or list of numbers > 0", str(WEIGHTS)),
    "acknowledge_patent": ("true or false", "false"),
}


class FamilyFault(ValueError):
    """What is wrong with a family, and at which keys of the file."""

    def __init__(self, loc: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.loc = loc


@dataclass(frozen=True)
class Member:
    """What one stage of a family tries: terms, each with the weight that factor 1 stands for."""

    name: str
    weights: Mapping[str, float]

    @property
    def stage_name(self) -> str:
        """As names of stages are written."""
        return self.name.lower().replace("_", "-")


def written_out(data: dict[str, Any], tree: yaml.Node) -> tuple[dict[str, Any], yaml.Node]:
    """A study's data and tree with a plain stage in the place of each member of its families.

    ``weight-*`` in a ``start_from`` stands for the earlier stages that are named so.

    Raises:
        FamilyFault: a family that cannot be written out.
    """
    stages, nodes = data.get("stages"), _value(tree, "stages")
    if not isinstance(stages, list) or not isinstance(nodes, yaml.SequenceNode):
        return data, tree
    found: list[tuple[Any, yaml.Node]] = []
    for i, (stage, node) in enumerate(zip(stages, nodes.value, strict=True)):
        if not isinstance(stage, dict):
            found.append((stage, node))
            continue
        stage, node = _with_starts(("stages", i), stage, node, [each for each, _ in found])
        if KEY in stage:
            found += _family(("stages", i), stage, node, data, [each for each, _ in found])
        else:
            found.append((stage, node))
    listed = yaml.SequenceNode(nodes.tag, [node for _, node in found], nodes.start_mark, nodes.end_mark)
    return {**data, "stages": [stage for stage, _ in found]}, _replaced(tree, "stages", listed)


def _with_starts(
    loc: tuple[str | int, ...], stage: dict[str, Any], node: yaml.Node, earlier: Sequence[Any]
) -> tuple[dict[str, Any], yaml.Node]:
    """The stage with every pattern of its ``start_from`` in full."""
    starts, listed = stage.get("start_from"), _value(node, "start_from")
    if not isinstance(starts, list) or not isinstance(listed, yaml.SequenceNode):  # by a merge key: it has no line
        return stage, node
    names = [each["name"] for each in earlier if isinstance(each, dict) and isinstance(each.get("name"), str)]
    full: list[tuple[Any, yaml.Node]] = []
    for j, (start, scalar) in enumerate(zip(starts, listed.value, strict=True)):
        if not isinstance(start, str) or "*" not in start:
            full.append((start, scalar))
            continue
        matching = [name for name in names if fnmatch.fnmatchcase(name, start)]
        if not matching:
            known = ", ".join(names) or "none, it is the first"
            raise FamilyFault((*loc, "start_from", j), f"'{start}' is the name of no earlier stage; there are: {known}")
        full += [(name, scalar) for name in matching]
    nodes = yaml.SequenceNode(listed.tag, [n for _, n in full], listed.start_mark, listed.end_mark)
    return {**stage, "start_from": [name for name, _ in full]}, _replaced(node, "start_from", nodes)


def _family(
    loc: tuple[str | int, ...], family: dict[str, Any], node: yaml.Node, data: Mapping[str, Any], earlier: Sequence[Any]
) -> Iterator[tuple[dict[str, Any], yaml.Node]]:
    """The stages of a family, each with its node."""
    members = [*_members(loc, family[KEY])]
    pattern, settings = family.get("name"), family.get("set", {})
    if not isinstance(pattern, str) or PLACE not in pattern:
        raise FamilyFault((*loc, "name"), f"a family's name holds {PLACE}, e.g. weight-{PLACE}; got {pattern!r}")
    for section in ("set", "grid"):
        if not isinstance(family.get(section, {}), dict):
            raise FamilyFault((*loc, section), "needs a mapping")
    factors = _factors(loc, family.get("weights", WEIGHTS))
    acknowledged = family.get("acknowledge_patent", False)
    _check_terms(loc, members, settings, acknowledged)
    started = _terms_before(family.get("start_from"), data, earlier)
    for member in members:
        name = pattern.replace(PLACE, member.stage_name)
        others = {f"losses.{term}.weight": 0 for term in started if term not in member.weights}
        patented = {f"losses.{term}.acknowledge_patent": True for term in member.weights if _term(term).patent}
        own = {path: value for path, value in settings.items() if _term_of(path) in (None, *member.weights)}
        stage = {key: value for key, value in family.items() if key not in OWN}
        stage |= {"name": name, "set": {**others, **patented, **own}, **_points(member, factors, family)}
        scalar = _value(node, "name") or node
        called = yaml.ScalarNode("tag:yaml.org,2002:str", name, scalar.start_mark, scalar.end_mark)
        yield stage, _replaced(node, "name", called)


def _points(member: Member, factors: Sequence[float], family: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a member: an axis of the grid, or for several terms points in which they change together."""
    tried = [
        {f"losses.{term}.weight": float(f"{factor * weight:.6g}") for term, weight in member.weights.items()}
        for factor in factors
    ]
    if len(member.weights) > 1:
        return {"together": tried}
    grid = family.get("grid", {})
    return {"grid": {**grid, **{path: [point[path] for point in tried] for path in tried[0]}}}


def _members(loc: tuple[str | int, ...], given: Any) -> Iterator[Member]:
    """Each entry of ``for_each``: the name of a term, or a group with its own name."""
    if not isinstance(given, list) or not given:
        raise FamilyFault((*loc, KEY), "needs a list of loss terms or groups, e.g. [pi, {SKD: [pi, pa, ho]}]")
    for j, entry in enumerate(given):
        at = (*loc, KEY, j)
        if isinstance(entry, str):
            yield Member(entry, {entry: _published(at, entry)})
        elif isinstance(entry, dict) and len(entry) == 1 and all(map(_is_group, entry.values())):
            ((name, terms),) = entry.items()
            if isinstance(terms, list):
                yield Member(name, {term: _published((*at, name), term) for term in terms})
                continue
            for term, weight in terms.items():
                _published((*at, name), term)
                if not _is_factor(weight):
                    raise FamilyFault((*at, name, term), f"needs a weight above 0, got {weight!r}")
            yield Member(name, terms)
        else:
            form = "a term's name, or a group such as {SKD: [pi, pa, ho]} or {SKD: {pi: 80, pa: 0.5, ho: 0.1}}"
            raise FamilyFault(at, f"needs {form}; got {entry!r}")


def _is_group(given: Any) -> bool:
    return isinstance(given, list | dict) and bool(given)


def _is_factor(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and given > 0


def _published(loc: tuple[str | int, ...], name: Any) -> float:
    """The published weight of a term in the unit of its ``weight``; 1 where none is known."""
    if not isinstance(name, str):
        raise FamilyFault(loc, f"needs the name of a loss term, got {name!r}")
    try:
        term = LOSSES.resolve(name)
    except ValueError as error:
        raise FamilyFault(loc, str(error)) from None
    if term.task:
        raise FamilyFault(loc, f"'{name}' is the task's own term, which every method has")
    return float(term.published_weight.weight) if term.published_weight else 1.0


def _factors(loc: tuple[str | int, ...], given: Any) -> list[float]:
    """Factors of the published weights: of a number so many powers of ten around 1, or those that are listed."""
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return [10.0 ** (i - given // 2) for i in range(given)]
    if isinstance(given, list) and given and all(map(_is_factor, given)):
        return [float(factor) for factor in given]
    raise FamilyFault(
        (*loc, "weights"),
        f"needs how many weights, or a list of factors above 0, e.g. 5 or [0.1, 1, 10]; got {given!r}",
    )


def _check_terms(
    loc: tuple[str | int, ...], members: Sequence[Member], settings: Mapping[str, Any], acknowledged: Any
) -> None:
    """Patents are acknowledged, and what ``set`` says of a term is said of one of the family's."""
    terms = dict.fromkeys(term for member in members for term in member.weights)
    for term in terms:
        if (patent := _term(term).patent) and acknowledged is not True:
            raise FamilyFault(
                (*loc, KEY),
                f"'{term}' is claimed by the patent {patent}: whether it may be used is yours to say, with "
                "acknowledge_patent: true in this family",
            )
    for path in settings:
        if _term_of(path) not in (None, *terms):
            raise FamilyFault((*loc, "set", path), f"none of this family's terms; there are: {', '.join(terms)}")


def _terms_before(starts: Any, data: Mapping[str, Any], earlier: Sequence[Any]) -> list[str]:
    """The distillation terms that the stages before may bring along, and those of the study's base."""
    base = data.get("base")
    losses = base.get("losses") if isinstance(base, dict) else None
    found = dict.fromkeys(losses if isinstance(losses, dict) else ())
    waiting = [*starts] if isinstance(starts, list) else []
    while waiting:
        name = waiting.pop()
        stage = next((each for each in earlier if isinstance(each, dict) and each.get("name") == name), {})
        waiting += stage.get("start_from") or []
        settings, grid = stage.get("set"), stage.get("grid")
        paths = [*(settings if isinstance(settings, dict) else ()), *(grid if isinstance(grid, dict) else ())]
        paths += [path for entry in stage.get("together") or [] if isinstance(entry, dict) for path in entry]
        found |= dict.fromkeys(term for path in paths if (term := _term_of(path)))
    known = LOSSES.names()
    return [term for term in found if term in known and not _term(term).task]


def _term_of(path: Any) -> str | None:
    """The loss term that a dotted path leads to; none of any other."""
    head, _, rest = str(path).partition(".")
    return rest.partition(".")[0] if head == "losses" and rest else None


def _term(name: str) -> Any:
    return LOSSES.resolve(name)


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """What a mapping's node has at a key."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _replaced(node: yaml.Node, key: str, value: yaml.Node) -> yaml.Node:
    """A copy of a mapping's node with another value at a key."""
    pairs = [(name, value if name.value == key else old) for name, old in node.value]
    return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
