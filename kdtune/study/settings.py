"""``--set PATH=VALUE``: a study with other values, but for those that a search decides."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from kdtune.base import UserError
from kdtune.study import loader
from kdtune.study.faults import told
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig, Value
from kdtune.text import did_you_mean


def parse_set(assignments: Sequence[str]) -> dict[str, Value]:
    """``--set PATH=VALUE`` into a mapping; a value is a scalar of YAML or a flat list: ``1e-3``, ``[64, 96]``.

    Raises:
        UserError: not of that form.
    """
    changes = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise UserError(f"--set {assignment}: needs PATH=VALUE, e.g. --set recipe.num_steps=2000")
        try:
            found = loader.Document(value).value()
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment}: {loader.told(error)}") from None
        if any(isinstance(item, list | dict) for item in (found if isinstance(found, list) else [found])):
            raise UserError(
                f"--set {assignment}: the value must be a number, a word or a flat list of them; set a part's fields "
                "one by one, e.g. --set student.width=0.5, or change the study's file"
            )
        changes[path.strip()] = found
    return changes


def override(spec: StudySpec, changes: Mapping[str, Value], only: Collection[str] | None = None) -> StudySpec:
    """The study with values set in every stage in which the path exists, after the stage's own ``set``.

    What a search decides stays as it decides: in the stage that searches, and in those that start from its best.
    ``only`` these stages, where it is given, and not the base.

    Raises:
        UserError: no stage has the path, a search decides it in all that have, or the value is not allowed there.
    """
    if "seed" in changes:
        raise UserError("--set seed: a stage's seeds are its own list; change `seeds` in the study's file")
    if "threads" in changes:
        raise UserError("--set threads: one number for the whole study: give --threads N")
    if changes.keys() & {"select_on", "evaluated_on"}:
        raise UserError("--set select_on: one for the whole study: change `select_on` in the study's file")
    templates = {stage.name: spec.templates_of(stage) for stage in spec.stages}
    data = spec.model_dump(mode="json")
    in_base = {path: value for path, value in changes.items() if only is None and _has(spec.base, path)}
    try:
        data["base"] = spec.base.replace(in_base).model_dump(mode="json")
    except ValidationError:
        pass  # the stages report it, with their names
    for path, value in changes.items():
        having = [name for name, configs in templates.items() if all(_has(config, path) for config in configs)]
        if not having:
            known = _paths([config for configs in templates.values() for config in configs])
            raise UserError(f"--set {path}: no stage has this path{did_you_mean(path, known)}")
        decided = decided_by(spec, path) if only is None else {}
        free = [name for name in having if name not in decided]
        if not free:
            raise UserError(
                f"--set {path}={_written(value)}: {_decided_words(having, decided)}: the value would be used nowhere; "
                "change the grid in the study's file"
            )
        for stage in data["stages"]:
            swept = path in spec.stage(stage["name"]).axes
            if stage["name"] in free and not swept and (only is None or stage["name"] in only):
                stage["set"] = _set_after(stage["set"], path, value)
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        raise UserError(_refused(spec, changes, error.errors()[0])) from None


def decided_by(spec: StudySpec, path: str) -> dict[str, str]:
    """Stage -> the stage whose search decides what stands at the path there: itself, or one that it starts from.

    A stage's own ``set`` frees it, and what starts from it, from the searches before.
    """
    found: dict[str, str] = {}
    for stage in spec.stages:
        if any(_overlap(axis, path) for axis in stage.axes):
            found[stage.name] = stage.name
        elif not any(_overlap(key, path) for key in stage.set):
            inherited = [found[start] for start in stage.start_from if start in found]
            if inherited:
                found[stage.name] = inherited[0]
    return found


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted paths are the same or one lies inside the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def kept_searches(spec: StudySpec, changes: Mapping[str, Value]) -> Iterator[str]:
    """A line for each change that does not reach every stage which has its path, since a search decides it there."""
    for path, value in changes.items():
        decided = decided_by(spec, path)
        having = [stage.name for stage in spec.stages if all(_has(config, path) for config in spec.templates_of(stage))]
        free = [name for name in having if name not in decided]
        if free and len(free) < len(having):
            where = f"stage{'s' * (len(free) > 1)} {', '.join(free)}"
            yield f"--set {path}={_written(value)}: in {where} only; {_decided_words(having, decided)}"


def _decided_words(having: Sequence[str], decided: Mapping[str, str]) -> str:
    searching = [name for name in having if decided.get(name) == name]
    starting = [name for name in having if name in decided and name not in searching]
    words = f"{', '.join(searching)} search{'es' * (len(searching) == 1)} it"
    if starting:
        words += f", and {', '.join(starting)} start{'s' * (len(starting) == 1)} from what is found"
    return words


def _refused(spec: StudySpec, changes: Mapping[str, Value], fault: Any) -> str:
    """The line for a ``--set`` that is not allowed: which one, why, in which stage."""
    guilty = [path for path in changes if path in fault["loc"]] or list(changes)
    given = " ".join(f"--set {path}={_written(changes[path])}" for path in guilty)
    stage = next((spec.stages[part].name for part in fault["loc"] if isinstance(part, int)), None)
    return f"{given}: {told(fault)}{f' (stage {stage!r})' if stage else ''}"


def _written(value: Value) -> str:
    """A value as a command line has it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _set_after(settings: dict[str, Value], path: str, value: Value) -> dict[str, Value]:
    """``set`` with one path changed; a part that ``set`` gives as a whole is changed inside."""
    for key, part in settings.items():
        if path.startswith(key + ".") and isinstance(part, dict):
            inner = dict(part)
            *parents, last = path.removeprefix(key + ".").split(".")
            node = inner
            for parent in parents:
                node[parent] = dict(node.get(parent) or {})
                node = node[parent]
            node[last] = value
            return {**settings, key: inner}
    return {**settings, path: value}


def _has(config: TrialConfig, path: str) -> bool:
    try:
        config.at(path)
    except KeyError:
        return False
    return True


def _paths(templates: Sequence[TrialConfig]) -> list[str]:
    """Every dotted path of these configurations, for a "did you mean"."""

    def walk(prefix: str, value: Any) -> list[str]:
        inner = [p for k, v in value.items() for p in walk(f"{prefix}{k}.", v)] if isinstance(value, dict) else []
        return [prefix.rstrip("."), *inner]

    dumps = [config.model_dump(mode="json") for config in templates]
    return sorted({path for dump in dumps for path in walk("", dump) if path})
