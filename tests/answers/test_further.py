"""Parameters of terms that are words: from a trial's configuration by Parquet to the tables that people read."""

import json
from pathlib import Path
from typing import Any

import pytest

from kdtune.answers.query import table_in_format
from kdtune.records.live_tables import TableWriter
from kdtune.records.storage import Storage
from kdtune.records.stored_study import StoredStudy
from kdtune.study.file import dump
from kdtune.study.spec import StudySpec
from tests.support.tiny import BASE, NETWORK, finished

STAGE: dict[str, Any] = {
    "name": "how",
    "set": {
        "teacher": {"model": NETWORK, "checkpoint": "teacher.safetensors"},
        "losses.pi": {"weight": 0.5},
        "losses.cwd": {"weight": 3, "tap": "psp"},
    },
    "grid": {"losses.cwd.convention": ["paper", "cirkd"], "losses.pi.upsample": [False, True]},
}
SCORES = {("paper", False): 50.0, ("paper", True): 51.0, ("cirkd", True): 53.0}  # one has not run yet


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A storage of one study of one stage, three of its four trials done."""
    study = StudySpec.model_validate({"name": "tiny", "base": BASE, "stages": [STAGE]})
    where, plan = Storage(str(tmp_path), "tiny"), list[str]()
    writer = TableWriter(where, study)
    for (convention, enlarged), miou in SCORES.items():
        changes = {**STAGE["set"], "losses.cwd.convention": convention, "losses.pi.upsample": enlarged}
        record = finished("how", miou, changes)
        writer.add(record)
        plan.append(record["row"]["trial_id"])
    writer.write({"how": plan})
    where.folder.write("study.yaml", dump(study).encode())
    return str(tmp_path)


def shown(root: str, table: str, form: str = "text", *, study: str | None = "tiny") -> list[str]:
    text = table_in_format(study, root, table, form, published=False, compare=False, styled=False)
    assert isinstance(text, str)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_words_have_columns_of_text(root: str) -> None:
    stored = StoredStudy(root, "tiny")
    for name in ("trials", "optimal"):
        schema = stored.table(name).schema
        kinds = {column: str(schema.field(column).type) for column in ("convention_cwd", "upsample_pi", "tap_cwd")}
        assert set(kinds.values()) == {"string"}
        assert str(schema.field("temperature_cwd").type) == "double"
    rows = stored.table("trials").select(["convention_cwd", "upsample_pi", "tap_cwd", "miou"]).to_pylist()
    assert [(*row.values(),) for row in rows] == [
        ("paper", "false", "psp", 50.0),
        ("paper", "true", "psp", 51.0),
        ("cirkd", "true", "psp", 53.0),
    ]
    (best,) = stored.table("optimal").to_pylist()
    assert (best["convention_cwd"], best["upsample_pi"], best["miou"]) == ("cirkd", "true", 53.0)


def test_they_are_shown_where_a_stage_varied_them(root: str) -> None:
    """``tap_cwd`` is the same throughout, and not told."""
    (optimal,) = [line for line in shown(root, "optimal") if line.startswith("how")]
    assert "convention_cwd=cirkd, upsample_pi=true 53.00" in optimal
    lines = shown(root, "weights")
    assert [line.split(" convention")[1] for line in lines if " convention" in line] == [
        "_cwd=paper, upsample_pi=false 50.00",
        "_cwd=paper, upsample_pi=true 51.00",
        "_cwd=cirkd, upsample_pi=true *53.00*",
        "_cwd=cirkd, upsample_pi=false -",
    ]
    assert "parameters" in lines[1]
    assert "published: λ_CWD 3e+0 (convention: paper)" in lines[-1]
    assert len([line for line in shown(root, "trials") if "convention_cwd=paper, upsample_pi=true" in line]) == 1
    (first, *_) = json.loads("\n".join(shown(root, "weights", "json")))
    assert (first["lambda_cwd"], first["parameters"]) == (3.0, "convention_cwd=paper, upsample_pi=false")


def test_over_all_studies(root: str) -> None:
    for table, words in (("weights", "convention_cwd=cirkd, upsample_pi=true"), ("optimal", "convention_cwd=cirkd")):
        assert any(words in line for line in shown(root, table, study=None))
