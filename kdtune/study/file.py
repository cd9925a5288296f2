"""YAML to ``StudySpec`` and back; every error is one line with file, line, field and what is allowed."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import kdtune
from kdtune.base import UserError, did_you_mean
from kdtune.study.faults import told
from kdtune.study.spec import StudySpec
from kdtune.study.trial_config import TrialConfig, Value


class Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, but 1e-4 is a number, as in YAML 1.2."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


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
        tree: yaml.Node | None = yaml.compose(text, Loader=Loader)
        wrong = _bad_key(tree)
        data = None if wrong else yaml.load(text, Loader=Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        return [f"{path}: cannot be read: {reason}"], None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return [f"{path}:{line}: not valid YAML: {error.reason}: character #x{error.character:04x}"], None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return [f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem or error.context}"], None
    if wrong:
        return [f"{path}:{wrong}"], None
    if tree is None or not isinstance(data, dict):
        return [f"{path}:1: a study is a mapping with name, base and stages; see `kdtune studies show demo`"], None
    try:
        return [], StudySpec.model_validate(data)
    except ValidationError as error:
        return [_line(path, tree, fault) for fault in error.errors()], None


def _bad_key(node: yaml.Node | None, above: Sequence[yaml.Node] = ()) -> str | None:
    """``line: what is wrong`` of the first key that is no text or that a mapping has twice: PyYAML keeps the last."""
    children: list[yaml.Node] = []
    if node is not None and node in above:
        return f"{node.start_mark.line + 1}: this part contains itself"
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                shown = f"'{key.value}' is" if isinstance(key.value, str) else "this is"
                return f"{key.start_mark.line + 1}: {shown} no key: keys are text"
            if key.value in seen:
                return f"{key.start_mark.line + 1}: {key.value}: this key stands here twice"
            seen.add(key.value)
            children.append(value)
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    below = [*above, node] if node is not None else []
    return next((found for child in children if (found := _bad_key(child, below))), None)


def _line(path: Path, tree: yaml.Node, fault: Any) -> str:
    """``file:line: field: what is wrong; got ...`` of one pydantic error."""
    loc = [part for part in fault["loc"] if not _is_tag(part)]
    node, line, names = tree, 1, []
    for part in loc:
        child = _child(node, part)
        absent = f"[{part}]" if isinstance(part, int) else str(part)
        name, node, line = child if child else (absent, node, line)
        names.append(name)
    return f"{path}:{line}: {_joined(names)}: {told(fault)}"


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
            found = yaml.load(value, Loader=Loader)
        except yaml.YAMLError:
            raise UserError(f"--set {assignment}: the value is not valid YAML") from None
        if any(isinstance(item, list | dict) for item in (found if isinstance(found, list) else [found])):
            raise UserError(
                f"--set {assignment}: the value must be a number, a word or a flat list of them; set a part's fields "
                "one by one, e.g. --set student.width=0.5, or change the study's file"
            )
        changes[path.strip()] = found
    return changes


def override(spec: StudySpec, changes: Mapping[str, Value], only: Collection[str] | None = None) -> StudySpec:
    """The study with values set in every stage in which the path exists, after the stage's own ``set``.

    A swept value wins over it. ``only`` these stages, where it is given, and not the base.

    Raises:
        UserError: no stage has the path, or the value is not allowed there.
    """
    if "seed" in changes:
        raise UserError("--set seed: a stage's seeds are its own list; change `seeds` in the study's file")
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
        for stage in data["stages"]:
            if only is not None and stage["name"] not in only:
                continue
            if stage["name"] in having and path not in stage["grid"] and path not in stage["ranges"]:
                stage["set"] = _set_after(stage["set"], path, value)
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        raise UserError(_refused(spec, changes, error.errors()[0])) from None


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


def dump(spec: StudySpec) -> str:
    """The study as YAML with every default filled in."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, width=100)
