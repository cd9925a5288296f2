"""YAML as study files, ``--set`` and ``--model`` are read: as YAML 1.2 reads it.

PyYAML reads YAML 1.1, in which ``011`` is 9, ``12:30`` is 750 and ``no`` is false. What the two read differently is
refused, for the author may have either in mind. Source: YAML 1.2.2, section 10.3.2, the core schema.

Files of others are read with the same limits, whatever their loader: a few hundred bytes of aliases stand for more
values than a machine can hold, and brackets in brackets end the interpreter's stack.
"""

import re
from typing import Any, cast

import yaml

DEEPEST = 100  # parts within parts; a study has about six
MOST_REPEATED = 100_000  # values that aliases stand for, in all
TEXT = 64  # characters of text that count as one more value

AMBIGUOUS = "!ambiguous"
WORDS = re.compile(r"(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$")
NUMBERS = re.compile(
    r"""[-+]?(?:0b[01_]+|0x[0-9a-fA-F]*_[0-9a-fA-F_]*|0o[0-7]+|0[0-9_]+       # binary, octal, leading zeros
        |[0-9]+_[0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[0-9]+\.[0-9]*_[0-9_]*   # 1_000
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


class Refused(yaml.MarkedYAMLError):
    """More than a file of its size can mean."""


class Document:
    """A YAML text, composed within the limits.

    Raises:
        yaml.YAMLError: not valid YAML, or beyond a limit.
    """

    def __init__(self, text: str | bytes, kind: Any = Loader) -> None:
        _check(text, kind)
        self._loader = kind(text)
        self.tree: yaml.Node | None = self._loader.get_single_node()

    def value(self) -> Any:
        """What the text says, none of an empty one.

        Raises:
            yaml.YAMLError: a value that cannot be made.
        """
        if self.tree is None:
            return None
        try:
            return self._loader.construct_document(self.tree)
        except (ValueError, OverflowError, RecursionError) as error:  # a number of thousands of digits, a 13th month
            raise Refused(None, None, f"holds a value that cannot be read: {error}", self.tree.start_mark) from None


def _check(text: str | bytes, kind: Any) -> None:
    """The nesting and what aliases repeat, counted before anything is made of the text."""
    sizes: dict[str, int] = {}  # of what has a name, what it repeats included
    parts: list[tuple[str | None, int]] = [(None, 0)]  # those that are open: name and size until now
    repeated = 0
    for event in yaml.parse(text, Loader=kind):
        name, size, mark = getattr(event, "anchor", None), 0, cast("yaml.Mark", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            if len(parts) > DEEPEST:
                raise Refused(None, None, f"more than {DEEPEST} parts within each other", mark)
            parts.append((name, 1))
        elif isinstance(event, yaml.AliasEvent):
            size, named, name = sizes.get(str(name), 1), name, None
            repeated += size
            if repeated > MOST_REPEATED:
                problem = f"aliases (*{named}) stand for more than {MOST_REPEATED} values: write them out"
                raise Refused(None, None, problem, mark)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value) // TEXT
        elif isinstance(event, yaml.CollectionEndEvent):
            name, size = parts.pop()
        if name is not None and size:
            sizes[name] = size
        parts[-1] = parts[-1][0], parts[-1][1] + size


def told(error: yaml.YAMLError) -> str:
    """What is wrong with a text, without its place."""
    if isinstance(error, (Ambiguous, Refused)):
        return str(error.problem)
    problem = error.problem or error.context if isinstance(error, yaml.MarkedYAMLError) else None
    if problem is None:
        return "not valid YAML"
    return f"not valid YAML: {problem}" + ("; indent with spaces" if "\\t" in problem else "")
