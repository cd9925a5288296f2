"""Commands that compute nothing on tensors: they start in the time of what they do, not in that of torch's import."""

from pathlib import Path

from kdtune.bench.synthetic_study import fill, synthetic_study
from kdtune.records.storage import Storage
from kdtune.study.file import dump
from tests.support.imported import HEAVY, after


def test_a_study_is_read_checked_forecast_and_told_of_without_torch_and_ray(tmp_path: Path) -> None:
    study, file, root = synthetic_study(4), tmp_path / "study.yaml", str(tmp_path / "runs")
    fill(Storage(root, study.name), study)
    file.write_text(dump(study))
    commands = [
        ["status", study.name, "--storage", root],
        ["results", study.name, "--storage", root],
        ["studies", "list"],
        ["studies", "list", "--storage", root],
        ["studies", "show", "cityscapes-resnet"],
        ["studies", "validate", str(file)],
        ["losses", "list"],  # every term
        ["launch", "demo", "--dry-run", "--storage", root],  # a teacher that it trains, and every term of its own
        ["launch", "voc-effnet", "--dry-run", "--storage", root],  # a teacher's file, which is not there
        ["launch", str(file), "--dry-run", "--storage", root],  # with speeds on record
    ]
    assert [(done.code, done.imported) for done in after(commands)] == [(0, [])] * len(commands)


def test_status_and_results_need_no_pandas(tmp_path: Path) -> None:
    """Pyarrow imports it for times, and wherever Python's values become a table: 0.2 s."""
    study = synthetic_study(4)
    fill(where := Storage(str(tmp_path), study.name), study)
    where.write_energy("launch", [{"node": "a", "energy_kwh": 1, "co2_kg": 0.5}])
    words = [[command, study.name, "--storage", str(tmp_path)] for command in ("status", "results")]
    done = after(words, heavy=[*HEAVY, "pandas"])
    assert [(each.code, each.imported) for each in done] == [(0, []), (0, [])]
    assert where.energy() == {"launch": [{"node": "a", "energy_kwh": 1, "co2_kg": 0.5}]}
    where.write_energy("launch", [{"node": "a", "energy_kwh": 1}])
    assert where.energy() == {}


def test_a_finished_study_is_launched_again_without_torch(tmp_path: Path) -> None:
    """Nothing is left to run, and the versions that ran it stand."""
    study, file, where = synthetic_study(4), tmp_path / "study.yaml", Storage(str(tmp_path), "growth-4")
    fill(where, study)
    file.write_text(dump(study))
    where.write_study(study, {"torch": "1.0"})
    (launched,) = after([["launch", str(file), "--storage", str(tmp_path)]])
    assert (launched.code, launched.imported) == (0, ["ray"])
    assert where.read_versions() == {"torch": "1.0"}
