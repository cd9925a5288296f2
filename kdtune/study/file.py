"""YAML to ``StudySpec`` and back; every error is one line with file, line, field and what is allowed."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

import kdtune
from kdtune.base import SegmentationDataset, UserError
from kdtune.filesystem.folder import Folder, leads_out
from kdtune.study import loader
from kdtune.study.families import FamilyFault, written_out
from kdtune.study.faults import told
from kdtune.study.settings import override
from kdtune.study.spec import StudySpec
from kdtune.study.stage_names import wrong_names
from kdtune.study.trial_config import AnyDataset, Value
from kdtune.text import did_you_mean

NO_SEARCH: Mapping[str, Value] = {}


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
        _refuse_other(path)
        if not path.is_file():
            raise UserError(f"{path}: no such study file; give a path to a YAML file or one of: {_names()}")
        return path
    path = search_spaces() / f"{study}.yaml"
    if not path.is_file():
        _refuse_other(Path(study))
        raise UserError(f"unknown study '{study}'{did_you_mean(study, study_names())}; there are: {_names()}")
    return path


def _refuse_other(path: Path) -> None:
    """Raises UserError if something is there that is no study's file."""
    if path.suffix in (".yaml", ".yml"):
        return
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a study's file, which ends in .yaml, or a study's name")
    if path.is_file():
        raise UserError(f"{path}: is no study's file, which ends in .yaml")


def _names() -> str:
    return ", ".join(study_names())


def load_study(
    study: str | Path,
    overrides: Mapping[str, Value] | None = None,
    search: str | None = None,
    samples: int | None = None,
) -> StudySpec:
    """A study by name or path, checked, with ``--set`` changes applied.

    ``search``, ``samples``: of stages that have ranges, which no grid can take, and name no search themselves.

    Raises:
        UserError: unreadable, or not a valid study; the first fault, as one line.
    """
    path = find(str(study))
    faults, spec = read(path, {"search": search, "samples": samples} if search not in (None, "grid") else {})
    if spec is None:
        more = f" (and {len(faults) - 1} more: kdtune studies validate {path})" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)
    return override(spec, overrides) if overrides else spec


def read(path: Path, search: Mapping[str, Value] = NO_SEARCH) -> tuple[list[str], StudySpec | None]:
    """All faults of a file, one line each, or the study. ``search``: see ``load_study``."""
    faults, tree, data = _parsed(path)
    if faults:
        return faults, None
    if tree is None or not isinstance(data, dict):
        return [f"{path}:1: a study is a mapping with name, base and stages; see `kdtune studies show demo`"], None
    base = data.get("base")
    if isinstance(base, dict) and _is_file(base.get("dataset")):
        try:
            data = {**data, "base": {**base, "dataset": _dataset_beside(path, base["dataset"])}}
        except UserError as error:
            return [f"{path}:{_place(tree, ['base', 'dataset'])}: {error}"], None
    try:
        data, tree = written_out(data, tree)
        return [], StudySpec.model_validate(_searched(data, search) if search else data)
    except FamilyFault as error:
        return [_line(path, tree, {"loc": error.loc, "type": "value_error", "msg": str(error)})], None
    except ValidationError as error:
        return _lines(path, tree, [*error.errors(), *_hidden(data, error)]), None


def _hidden(data: Mapping[str, Any], error: ValidationError) -> list[Any]:
    """What is wrong with the stages' names, which nobody has looked at where a value is of the wrong kind."""
    stages, told_already = data.get("stages"), {fault["loc"] for fault in error.errors()}
    details = [*wrong_names(stages)] if isinstance(stages, list) else []
    found = ValidationError.from_exception_data("study", details).errors() if details else []
    return [fault for fault in found if fault["loc"] not in told_already]


def _searched(data: dict[str, Any], search: Mapping[str, Value]) -> dict[str, Any]:
    """A study in which stages of ranges that name no search have this one."""
    stages = data.get("stages")
    if not isinstance(stages, list):
        return data
    open_ = [isinstance(stage, dict) and "ranges" in stage and "search" not in stage for stage in stages]
    return {**data, "stages": [{**search, **s} if is_open else s for s, is_open in zip(stages, open_, strict=True)]}


def _parsed(path: Path) -> tuple[list[str], yaml.Node | None, Any]:
    """A YAML file: what is wrong with it, or its tree and what it says."""
    try:
        text = path.read_text(encoding="utf-8")
        document = loader.Document(text)
        wrong = _bad_key(document.tree)
        data = None if wrong else document.value()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        return [f"{path}: cannot be read: {reason}"], None, None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return [f"{path}:{line}: not valid YAML: {error.reason}: character #x{error.character:04x}"], None, None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return [f"{path}:{mark.line + 1 if mark else 1}: {loader.told(error)}"], None, None
    return ([f"{path}:{wrong}"] if wrong else []), document.tree, data


def _lines(path: Path, tree: yaml.Node, faults: Sequence[Any]) -> list[str]:
    # a fault that lies inside a place makes what is said of the whole untrue
    around = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    return [_line(path, tree, fault) for fault in faults if fault["loc"] not in around]


def dataset_named(given: str) -> SegmentationDataset:
    """A dataset by its name, or by a file of its block, such as ``kdtune data init`` writes.

    Raises:
        UserError: no such name or file, or a fault in it.
    """
    if _is_file(given):
        return _read_dataset(Path(given).expanduser())
    try:
        found: SegmentationDataset = TypeAdapter(AnyDataset).validate_python({"name": given})
        return found
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["loc"][-1:] == ("name",):
            raise UserError(told(fault)) from None
        raise UserError(
            f"dataset '{given}' has settings of its own: give the file of them, which `kdtune data init` writes"
        ) from None


def _is_file(given: Any) -> bool:
    return isinstance(given, str) and given.endswith((".yaml", ".yml"))


def _dataset_beside(study: Path, given: str) -> SegmentationDataset:
    """The dataset of a file that a study names: with the study, or in a folder there, and nowhere else.

    Raises:
        UserError: it lies elsewhere, or has a fault.
    """
    parts, folder = PurePosixPath(given).parts, study.absolute().parent
    if given.startswith(("/", "~")) or ".." in parts or leads_out(Folder(str(folder)), *parts):
        raise UserError(f"base.dataset: '{given}' is not below the study's own folder: put the dataset's file there")
    return _read_dataset(study.parent / given)


def _read_dataset(path: Path) -> SegmentationDataset:
    faults, tree, data = _parsed(path)
    if not faults and (tree is None or not isinstance(data, dict)):
        faults = [f"{path}:1: a dataset's file is a mapping with name and its settings; see `kdtune data init --help`"]
    if not faults and tree is not None:
        try:
            found: SegmentationDataset = TypeAdapter(AnyDataset).validate_python(data)
            return found
        except ValidationError as error:
            faults = _lines(path, tree, error.errors())
    raise UserError(faults[0])


def _place(tree: yaml.Node, keys: Sequence[str]) -> int:
    """The line of what lies at these keys."""
    node, line = tree, 1
    for key in keys:
        child = _child(node, key)
        _, node, line = child if child else (key, node, line)
    return line


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
    return ": ".join([f"{path}:{line}", *([_joined(names)] if names else []), told(fault)])


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


def dump(spec: StudySpec) -> str:
    """The study as YAML with every default filled in."""
    return yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, width=100)
