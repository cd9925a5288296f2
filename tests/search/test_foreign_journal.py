"""What lies on storage is data: it brings no code into a launch, and is read for the trial that it tells of only."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from kdtune.cli import main
from kdtune.records.storage import Record, Storage
from kdtune.study import names
from tests.support.tiny import finished, write_tables

STUDY = """\
name: tiny
base:
  dataset: {name: demo, size: [32, 48], num_train: 8, num_val: 4}
  student: {name: pspnet, backbone: resnet18, width: 0.0625}
  losses: {ce: {weight: 1.0}}
  recipe: {lr: 0.05, weight_decay: 5e-4, crop: [32, 48], batch_size: 2, num_steps: 6, eval_every: 2}
stages:
  - name: student
  - name: final
    start_from: [student]
    seeds: [11]
"""


def evil(record: Record, made: Path, *, own_id: bool) -> Record:
    """The record with a configuration that calls a program; ``own_id``: under the id that it has then."""
    data: dict[str, Any] = json.loads(record["row"]["config"])
    data["student"] = {
        "name": "external",
        "builder": "torchvision.models.segmentation:fcn_resnet50",
        "arguments": {"args": ["touch", str(made)]},
        "classes_argument": "shell",
    }
    record["row"]["config"] = json.dumps(data)
    if own_id:
        record["row"]["trial_id"] = names.trial_id("student", data)
    return record


@pytest.mark.parametrize("own_id", [False, True])
def test_a_journal_brings_no_code(tmp_path: Path, own_id: bool) -> None:
    storage, file = Storage(str(tmp_path), "tiny"), tmp_path / "tiny.yaml"
    file.write_text(STUDY)
    record = evil(finished("student", 99.0), tmp_path / "made", own_id=own_id)
    storage.claim(record)
    storage.write_plan({"student": [record["row"]["trial_id"]]})
    done = CliRunner().invoke(main, ["launch", str(file), "--storage", str(tmp_path), "--stage", "final"])
    assert done.exit_code == (2 if own_id else 1), done.output
    told = "which the study does not name" if own_id else "stage 'student' has no completed configuration"
    assert told in done.stderr
    assert not (tmp_path / "made").exists()


def test_a_journal_of_another_configuration_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage(str(tmp_path), "tiny")
    kept, changed, renamed = (finished("student", 9.0, {"recipe.lr": rate}) for rate in (0.1, 0.2, 0.3))
    for record in (kept, changed, renamed):
        storage.claim(record)
    changed["row"]["config"] = changed["row"]["config"].replace('"seed":0', '"seed":1')
    storage.write_record(changed)
    (tmp_path / "tiny" / "journal" / f"{renamed['row']['trial_id']}.1.json").rename(
        tmp_path / "tiny" / "journal" / f"student-{'0' * 10}-s0.1.json"
    )
    assert set(storage.records()) == {kept["row"]["trial_id"]}
    assert caplog.text.count("damaged, and skipped") == 2


def test_a_table_of_another_configuration_is_one_line(tmp_path: Path) -> None:
    """A table is read in place of journals; its digest lies beside it, and may have been changed as well."""
    storage, file = Storage(str(tmp_path), "tiny"), tmp_path / "tiny.yaml"
    file.write_text(STUDY)
    record = finished("student", 99.0)
    storage.claim(record)
    plan = {"student": [record["row"]["trial_id"]]}
    storage.write_plan(plan)
    write_tables(storage, plan, {record["row"]["trial_id"]: record})
    table = storage.table("trials")
    changed = evil(record, tmp_path / "made", own_id=False)["row"]["config"]
    table = table.set_column(table.schema.get_field_index("config"), "config", pa.array([changed]))
    storage.write_tables({"trials": table})
    done = CliRunner().invoke(main, ["launch", str(file), "--storage", str(tmp_path), "--stage", "final"])
    assert done.exit_code == 2, done.output
    assert "trials.parquet" in done.stderr
    assert "remove the file" in done.stderr
