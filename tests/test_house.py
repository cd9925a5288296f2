"""The plan of the code: rooms of one size, wings that introduce themselves, no wing beside the contract."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "kdtune").rglob("*.py"))
WINGS = sorted(path.parent for path in (ROOT / "kdtune").glob("*/__init__.py"))
LINES = {"module": 300, "class": 200, "function": 60}
LARGER: dict[str, str] = {}  # "module.py" or "module.py:name" -> why it may be


def sizes(path: Path) -> Iterator[tuple[str, str, int]]:
    """Name, kind and lines of a module and of everything that it defines."""
    text, name = path.read_text(), str(path.relative_to(ROOT / "kdtune"))
    yield name, "module", len(text.splitlines())
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield f"{name}:{node.name}", kind, (node.end_lineno or 0) - node.lineno + 1


def test_no_room_is_larger_than_the_others() -> None:
    over = {name for path in MODULES for name, kind, lines in sizes(path) if lines > LINES[kind]}
    assert over == set(LARGER)


@pytest.mark.parametrize("wing", WINGS, ids=lambda wing: wing.name)
def test_a_wing_introduces_itself(wing: Path) -> None:
    words = ast.get_docstring(ast.parse((wing / "__init__.py").read_text())) or ""
    assert words.count(".") >= 2, "what lives here, what it may know, where to start reading"
    assert "Begin with" in words
    named = {word.split(".")[0] for word in words.split("``")[1::2]}
    assert named & {path.stem for path in wing.glob("*.py")}, "names the module to begin with"


def test_every_wing_has_its_place_in_the_contract() -> None:
    """``lint-imports`` holds the order; this holds that nothing stands outside of it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers, no_ray = settings["contracts"][0]["layers"], settings["contracts"][1]["source_modules"]
    placed = {name for layer in layers for name in layer.replace(":", "|").replace(" ", "").split("|")}
    there = {f"kdtune.{path.stem}" for path in (ROOT / "kdtune").glob("*.py")} - {"kdtune.__init__"}
    there |= {f"kdtune.{wing.name}" for wing in WINGS}
    assert placed == there
    assert len(layers) <= 13
    upper = ("search", "cluster", "api", "analysis", "remote", "bench", "cli", "__main__")
    assert set(no_ray) == placed - {f"kdtune.{name}" for name in upper}
