"""YAML as study files, ``--set`` and ``--model`` are read: as YAML 1.2 reads it.

PyYAML reads YAML 1.1, in which ``011`` is 9, ``12:30`` is 750 and ``no`` is false. What the two read differently is
refused, for the author may have either in mind. Source: YAML 1.2.2, section 10.3.2, the core schema.
"""

import re
from typing import Any

import yaml

AMBIGUOUS = "!ambiguous"
WORDS = re.compile(r"(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$")
NUMBERS = re.compile(
    r"""[-+]?(?:0b[01_]+|0x[0-9a-fA-F]*_[0-9a-fA-F_]*|0o[0-7]+|0[0-9_]+       # binary, octal, leading zeros
        |[0-9]+(?:_[0-9_]*)+(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[0-9]+\.[0-9]*_[0-9_]*   # 1_000
        |[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)$                                    # 12:30 counts in sixties""",
    re.VERBOSE,
)
SIGNS = list("-+.0123456789")


class Loader(yaml.SafeLoader):
    """Plain scalars as in the core schema of YAML 1.2, and merge keys (``<<``)."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for tag, pattern, first in (
    (AMBIGUOUS, WORDS, list("yYnNoO")),
    (AMBIGUOUS, NUMBERS, SIGNS),
    ("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("tag:yaml.org,2002:int", re.compile(r"(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$"), SIGNS),
    (
        "tag:yaml.org,2002:float",
        re.compile(
            r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        SIGNS,
    ),
    ("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"]),
):
    Loader.add_implicit_resolver(tag, pattern, first)


class Ambiguous(yaml.constructor.ConstructorError):
    """A plain scalar that the two versions read differently."""


def _refuse(loader: Loader, node: yaml.ScalarNode) -> None:
    if WORDS.match(node.value):
        problem = (
            f"'{node.value}' is a truth value in YAML 1.1 and a word in 1.2: write true or false, or '{node.value}'"
        )
    else:
        problem = (
            f"'{node.value}' is one number in YAML 1.1 and another or a word in 1.2: write it plainly, or in quotes"
        )
    raise Ambiguous(None, None, problem, node.start_mark)


Loader.add_constructor(AMBIGUOUS, _refuse)


def told(error: yaml.YAMLError) -> str:
    """What is wrong with a text, without its place."""
    if isinstance(error, Ambiguous):
        return str(error.problem)
    problem = error.problem or error.context if isinstance(error, yaml.MarkedYAMLError) else None
    if problem is None:
        return "not valid YAML"
    return f"not valid YAML: {problem}" + ("; indent with spaces" if "\\t" in problem else "")
