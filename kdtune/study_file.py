"""YAML to ``StudySpec`` and back; every error is one line with file, line, field and what is allowed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import kdtune
from kdtune.base import UserError, did_you_mean
from kdtune.spec import StudySpec, TrialConfig, Value


def search_spaces() -> Path:
    """The folder of the studies that come with kdtune: inside an installed wheel, beside the package in a checkout."""
    package = Path(kdtune.__file__).parent
    installed = package / "search_spaces"
    return installed if installed.is_dir() else package.parent / "search_spaces"


def study_names() -> list[str]:
    """The studies that ``kdtune launch`` knows by name."""
    return sorted(path.stem for path in search_spaces().glob("*.yaml"))


def find(study: str) -> Path:
    """The file of a study: a name from ``search_spaces`` or a path to a YAML file.

    Raises:
        UserError: there is neither; lists the names.
    """
    if study.endswith((".yaml", ".yml")) or "/" in study:
        path = Path(study).expanduser()
        if not path.is_file():
            raise UserError(f"{path}: no such study file; give a path to a YAML file or one of: {_names()}")
        return path
    path = search_spaces() / f"{study}.yaml"
    if not path.is_file():
        raise UserError(f"unknown study '{study}'{did_you_mean(study, study_names())}; there are: {_names()}")
    return path


def _names() -> str:
    return ", ".join(study_names())


def load_study(study: str | Path, overrides: Mapping[str, Value] | None = None) -> StudySpec:
    """A study by name or path, checked, with ``--set`` changes applied.

    Raises:
        UserError: unreadable, or not a valid study; the first fault, as one line.
    """
    path = find(str(study))
    faults, spec = read(path)
    if spec is None:
        more = f" (and {len(faults) - 1} more: kdtune studies validate {path})" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)
    return override(spec, overrides) if overrides else spec


def read(path: Path) -> tuple[list[str], StudySpec | None]:
    """All faults of a file, one line each, or the study."""
    try:
        text = path.read_text(encoding="utf-8")
        tree: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        return [f"{path}: cannot be read: {error}"], None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        return [f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}"], None
    if not isinstance(data, dict):
        return [f"{path}:1: a study is a mapping with name, base and stages; see `kdtune studies show demo`"], None
    twice = _duplicate(tree)
    if twice is not None:
        return [f"{path}:{twice.start_mark.line + 1}: {twice.value}: this key stands here twice"], None
    try:
        return [], StudySpec.model_validate(data)
    except ValidationError as error:
        assert tree is not None  # data is a mapping
        return [_line(path, tree, fault) for fault in error.errors()], None


def _duplicate(node: yaml.Node | None) -> yaml.Node | None:
    """The first key that a mapping has twice: PyYAML would silently keep the last."""
    children: Sequence[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                return key  # type: ignore[no-any-return]
            seen.add(key.value)
        children = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    return next((found for found in map(_duplicate, children) if found), None)


def _line(path: Path, tree: yaml.Node, fault: Any) -> str:
    """``file:line: field: what is wrong; got ...`` of one pydantic error."""
    loc = [part for part in fault["loc"] if not _is_tag(part)]
    node, line, names = tree, 1, []
    for part in loc:
        child = _child(node, part)
        name, node, line = child if child else (str(part), node, line)
        names.append(name)
    field = _joined(names)
    message = fault["msg"].removeprefix("Value error, ").replace("\n", " ")
    ours = fault["type"] in ("study", "value_error")
    got = "" if ours or fault["type"] == "missing" or isinstance(fault["input"], dict) else f"; got {fault['input']!r}"
    return f"{path}:{line}: {field}: {message[:1].lower() + message[1:]}{got}"


def _is_tag(part: Any) -> bool:
    """Whether a location part is pydantic's own note, not a key of the file."""
    return isinstance(part, str) and part.startswith("function-")


def _child(node: yaml.Node, part: Any) -> tuple[str, yaml.Node, int] | None:
    """Name, node and line of what ``part`` names below ``node``; a stage is named by its own name."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.value, value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        value = node.value[part]
        entries = {k.value: v.value for k, v in value.value} if isinstance(value, yaml.MappingNode) else {}
        return f"[{entries.get('name', part)}]", value, value.start_mark.line + 1
    return None


def _joined(names: list[str]) -> str:
    return ".".join(names).replace(".[", "[")


def parse_set(assignments: Sequence[str]) -> dict[str, Value]:
    """``--set PATH=VALUE`` into a mapping; a value is read as YAML, so ``1e-3``, ``null`` and ``[64, 96]`` work.

    Raises:
        UserError: not of that form.
    """
    changes = {}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise UserError(f"--set {assignment}: needs PATH=VALUE, e.g. --set recipe.num_steps=2000")
        try:
            changes[path.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {assignment}: the value is not valid YAML") from None
    return changes


def override(spec: StudySpec, changes: Mapping[str, Value]) -> StudySpec:
    """The study with values set in every stage in which the path exists, after the stage's own ``set``.

    A swept value wins over it.

    Raises:
        UserError: no stage has the path, or the value is not allowed there.
    """
    templates = spec.templates()
    data = spec.model_dump(mode="json")
    for path, value in changes.items():
        having = [name for name, config in templates.items() if _has(config, path)]
        if not having:
            raise UserError(f"--set {path}: no stage has this path{did_you_mean(path, _paths(templates))}")
        if _has(spec.base, path):
            data["base"] = _changed(spec.base, path, value, data["base"])
        for stage in data["stages"]:
            if stage["name"] in having and path not in stage["grid"] and path not in stage["ranges"]:
                stage["set"] = _set_after(stage["set"], path, value)
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
        message = fault["msg"].removeprefix("Value error, ")
        given = ", ".join(f"{path}={value}" for path, value in changes.items())
        raise UserError(f"--set {given}: {message}; in {'.'.join(map(str, fault['loc']))}") from None


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


def _changed(base: TrialConfig, path: str, value: Value, given: dict[str, Any]) -> dict[str, Any]:
    try:
        return base.replace({path: value}).model_dump(mode="json")
    except ValidationError:
        return given  # the stages report it, with their names


def _has(config: TrialConfig, path: str) -> bool:
    try:
        config.at(path)
    except KeyError:
        return False
    return True


def _paths(templates: Mapping[str, TrialConfig]) -> list[str]:
    """Every dotted path of every stage, for a "did you mean"."""

    def walk(prefix: str, value: Any) -> list[str]:
        inner = [p for k, v in value.items() for p in walk(f"{prefix}{k}.", v)] if isinstance(value, dict) else []
        return [prefix.rstrip("."), *inner]

    dumps = [config.model_dump(mode="json") for config in templates.values()]
    return sorted({path for dump in dumps for path in walk("", dump) if path})


def dump(spec: StudySpec) -> str:
    """The study as YAML with every default filled in."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, width=100)
