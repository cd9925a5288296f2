"""Every key of a study file, told by the classes that read it: path, type, default, meaning."""

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from kdtune.base import Config, LossTerm, Model, SegmentationDataset, UserError
from kdtune.datasets import DATASETS
from kdtune.losses import LOSSES
from kdtune.losses.meanings import meaning
from kdtune.models import MODELS
from kdtune.registry import Registry
from kdtune.study import families
from kdtune.study.budget import Budget
from kdtune.study.condition import When
from kdtune.study.holdout import Holdout
from kdtune.study.meanings import MEANINGS
from kdtune.study.recipe import Recipe
from kdtune.study.schedulers import Halving, SuccessiveHalving
from kdtune.study.spec import StudySpec
from kdtune.study.stage import Range, Stage
from kdtune.study.trial_config import Teacher, TrialConfig, WarmStart
from kdtune.text import did_you_mean

# part -> what stands in it: a class, or a table of those that it may be
PARTS: dict[str, type[Config] | Registry] = {
    "scheduler": SuccessiveHalving,
    "halving": Halving,
    "select_on": Holdout,
    "stages": Stage,
    "stages.budget": Budget,
    "stages.scheduler": SuccessiveHalving,
    "stages.ranges": Range,
    "stages.when": When,
    "base": TrialConfig,
    "base.dataset": DATASETS,
    "base.student": MODELS,
    "base.teacher": Teacher,
    "base.teacher.model": MODELS,
    "base.warm_start": WarmStart,
    "base.losses": LOSSES,
    "base.recipe": Recipe,
}
WORDS = {"string": "text", "boolean": "true or false", "null": "null", "object": "mapping", "array": "list"}
NAMED = (SegmentationDataset, Model)  # in a file: by their key ``name``
SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def lines(path: str | None) -> list[str]:
    """A line for each key at or below a path, all without one; written as in a file or as ``--set`` has it.

    Raises:
        UserError: there is no such key.
    """
    found = dict(_keys("", StudySpec))
    if path is None:
        return [*found.values()]
    spelled = {key: {key, _short(key)} for key in found}
    spelled = {key: names | {name.removeprefix("base.") for name in names} for key, names in spelled.items()}
    told = [line for key, line in found.items() if any(f"{n}.".startswith(f"{path}.") for n in spelled[key])]
    if not told:
        known = [name for names in spelled.values() for name in sorted(names)]
        raise UserError(f"{path}: no key of a study{did_you_mean(path, known)}; `kdtune studies fields` lists all")
    return told


def _short(key: str) -> str:
    """Without the name of a dataset or network, as ``--set`` has it: ``base.student.width``."""
    for path, part in PARTS.items():
        if isinstance(part, Registry) and part is not LOSSES and key.startswith(f"{path}."):
            return ".".join([path, *key.removeprefix(f"{path}.").split(".")[1:]])
    return key


def _keys(path: str, kind: type[Config]) -> Iterator[tuple[str, str]]:
    """Path -> line, of a part and of those in it."""
    schemas = kind.model_json_schema(mode="validation")
    for key, field in kind.model_fields.items():
        at = f"{path}{key}"
        words = _words(schemas["properties"][key], schemas.get("$defs", {}))
        told = _meaning(path, key, kind)
        yield at, f"{at}: {words}; {default_of(field)}{f'; {told}' if told else ''}"
        part = PARTS.get(at)
        if isinstance(part, Registry):
            for name in part.table:
                named = f"{at}.{name}."
                yield from _keys(named, part.resolve(name))
        elif part is not None:
            yield from _keys(f"{at}.", part)
            if part is Stage:
                yield from ((f"{at}.{own}", line) for own, line in _of_a_family(f"{at}."))
        elif isinstance(field.default, Config):
            yield from _keys(f"{at}.", type(field.default))


def _meaning(path: str, key: str, kind: type[Config]) -> str:
    """Of a key; the name of a dataset or a network is told by the first sentence about it."""
    if issubclass(kind, LossTerm):
        return meaning(path.split(".")[-2], key)
    first = (kind.__doc__ or "").split("\n")[0].rstrip(".") if key == "name" and issubclass(kind, NAMED) else ""
    return MEANINGS.get(kind.__name__, {}).get(key) or first


def _of_a_family(at: str) -> Iterator[tuple[str, str]]:
    """Key -> line, of what an entry of ``stages`` has beside a stage's keys where it stands for many."""
    for key, (words, default) in families.OWN.items():
        yield key, f"{at}{key}: {words}; default {default}; {MEANINGS['Family'][key]}"


def default_of(field: FieldInfo) -> str:
    """``required``, or ``default VALUE`` as a file has it."""
    if field.is_required():
        return "required"
    value = yaml.safe_dump(to_jsonable_python(field.default), default_flow_style=True, sort_keys=False, width=1000)
    return f"default {value.removesuffix('...' + chr(10)).strip()}"


def _words(schema: dict[str, Any], named: dict[str, Any]) -> str:
    """The type of a value in plain words, with its bounds."""
    if "$ref" in schema:
        return _words(named[schema["$ref"].rsplit("/", 1)[1]], named)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_words(each, named) for each in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    if schema.get("format") == "tap":
        return "tap"
    kind = schema.get("type")
    if kind in ("integer", "number"):
        bounds = [f"{sign} {schema[key]}" for key, sign in SIGNS.items() if key in schema]
        return " ".join(["whole number" if kind == "integer" else "number", *bounds])
    if kind == "array" and "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}"
    if kind == "array" and schema.get("items"):
        return f"list of {_words(schema['items'], named)}"
    return WORDS.get(str(kind), "mapping" if kind is None and not schema.get("title") else "value")
