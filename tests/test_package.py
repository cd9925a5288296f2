"""What a user installs: the wheel, and the two commands that README begins with."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kdtune.study.file import study_names

ROOT = Path(__file__).resolve().parents[1]


def commands(text: str) -> list[str]:
    """The lines of a file's shell blocks."""
    return [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.strip().splitlines()]


def test_ci_runs_exactly_the_readme_test_command() -> None:
    demo, tests = commands((ROOT / "README.md").read_text())[:2]
    assert demo.endswith("kdtune launch demo")
    assert tests.endswith("pytest")
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == tests


@pytest.mark.slow
def test_wheel_carries_the_studies_and_the_published_values(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet", "-w", str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("kdtune-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"kdtune/search_spaces/{name}.yaml" for name in study_names()} <= names
    assert "kdtune/answers/published/cityscapes-resnet.json" in names
    assert "kdtune/report/page.css" in names
    assert not [name for name in names if name.startswith("tests/") or name.endswith((".md", ".png"))]
    # from the wheel, outside of the checkout: the studies are found where the package is
    (tmp_path / "site").mkdir()
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import kdtune.cli, sys; sys.argv = ['kdtune', 'studies', 'list']; kdtune.cli.main()"
    listed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=False
    )
    assert listed.returncode == 0, listed.stderr
    assert {line.split()[0] for line in listed.stdout.splitlines()} == set(study_names())
