"""What commands import, asked in a process of their own."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HEAVY = ("torch", "torchvision", "ray", "matplotlib")

PROGRAM = """
import json, sys
from click.testing import CliRunner
from kdtune.cli import main
found = []
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(main, words)
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    found.append([done.exit_code, len(done.output.splitlines()), loaded])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    lines: int  # that it printed
    imported: list[str]  # of those that were asked for, until then


def after(
    commands: Sequence[Sequence[str]],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    heavy: Sequence[str] = HEAVY,
) -> list[Ended]:
    """Commands of kdtune, one after the other in one process."""
    words = [sys.executable, "-c", PROGRAM, json.dumps(commands), json.dumps(heavy)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=cwd, env=env)
    return [Ended(*each) for each in json.loads(done.stdout)]
