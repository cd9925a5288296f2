"""The term of another package that kdtune/losses/README.md shows: it is found, and passes the tests of any term."""

import os
import re
import subprocess
import sys
from pathlib import Path

import kdtune


def test_the_documented_term(tmp_path: Path) -> None:
    """Installed as pip would leave it, and tried by pytest in a folder of its own."""
    text = Path(kdtune.__file__).with_name("losses").joinpath("README.md").read_text()
    text = text.split("## A term of another package")[1]
    (project,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    term, tests = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_terms.py").write_text(term)
    (tmp_path / "test_my_terms.py").write_text(tests)
    (entry,) = re.findall(r"^absolute = \"(.*)\"$", project, re.MULTILINE)
    info = tmp_path / "my_terms-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-terms\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kdtune.losses]\nabsolute = {entry}\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    listed = (
        "from kdtune.losses.catalogue import loss_lines; print(*(l for l in loss_lines() if l.startswith('absolute')))"
    )
    shown = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True, env=environment)
    (line,) = re.findall("^absolute .*", shown.stdout, re.MULTILINE)
    assert line.split()[:3] == ["absolute", "L_abs", "paper"]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout
    assert "19 passed" in done.stdout
