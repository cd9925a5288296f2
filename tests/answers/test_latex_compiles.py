"""Tables as LaTeX are LaTeX: compiled once, where a compiler is there."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kdtune.answers.rendering import render
from tests.support.finished_study import everything

TABLES = ("optimal", "grid", "temperature", "weights", "final", "terms", "initialization", "emissions", "cost")
COMPILER = shutil.which("tectonic") or shutil.which("pdflatex")


@pytest.mark.skipif(COMPILER is None, reason="neither tectonic nor pdflatex is here")
def test_all_tables_compile_as_one_document(tmp_path: Path) -> None:
    found = everything()
    body = "\n\\clearpage\n".join(render(name, found, "s", "latex") for name in TABLES)
    file = tmp_path / "tables.tex"
    head = "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n\\begin{document}\n"
    file.write_text(f"{head}{body}\n\\end{{document}}\n", encoding="utf-8")
    assert COMPILER is not None
    own = [] if "tectonic" in COMPILER else ["-halt-on-error", "-interaction=nonstopmode"]
    done = subprocess.run([COMPILER, *own, file.name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000
