"""Tools that follow experiments hear of every evaluation; each is run for real, none needs a network."""

import signal
from pathlib import Path
from typing import Any

import pytest

from kdtune.base import UserError
from kdtune.cluster.loggers import Guarded, callbacks, folder_of, reported
from kdtune.filesystem.folder import Folder
from tests.support.launching import STUDY, end, journals, kdtune, start, until, write_study


def test_numbers_that_there_are_none_of_are_left_out() -> None:
    row = {"miou": 12.5, "images_per_second": None, "trial_id": "a", "step": 4}
    assert reported(row, {"loss": 1, "loss_pi": 0.5, "grad_norm_pi": 2.0}) == {
        "miou": 12.5,
        "loss": 1.0,
        "loss_pi": 0.5,
    }


def test_without_a_key_wandb_is_refused_with_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"^--log wandb: .*WANDB_MODE=offline$"):
        callbacks(["wandb"], Folder(str(tmp_path)), "tiny", str)


@pytest.mark.slow
def test_all_of_them_in_one_launch(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "WANDB_MODE": "offline"}
    words = ("--storage", tmp_path, "--stage", "student", "--scheduler", "none")
    logs = [word for name in ("tensorboard", "mlflow", "wandb") for word in ("--log", name)]
    done = kdtune("launch", write_study(tmp_path), *words, *logs, env=env)
    assert done.returncode == 0, done.stderr
    records = journals(tmp_path)
    assert len(records) == 4

    for name, record in records.items():
        events = EventAccumulator(str(folder_of(Folder(str(tmp_path / "tiny"))) / name))
        events.Reload()
        found = [(event.step, event.value) for event in events.Scalars("ray/tune/miou")]
        wanted = [(entry["step"], entry["miou"]) for entry in record["history"]]
        assert [step for step, _ in found] == [step for step, _ in wanted] == [2, 4, 6]
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted])
        assert "ray/tune/energy_kwh" in events.Tags()["scalars"]

    client = mlflow.MlflowClient(tracking_uri=env["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == records.keys()
    for name, record in records.items():
        assert runs[name].data.metrics["miou"] == pytest.approx(record["row"]["miou"])
        assert runs[name].data.tags["stage"] == "student"
        assert float(runs[name].data.params["recipe.lr"]) == record["row"]["lr"]

    files = [path.read_bytes() for path in (tmp_path / "tiny" / "wandb").glob("offline-run-*/*.wandb")]
    for name, record in records.items():  # strings lie in them as they are
        (run,) = [content for content in files if name.encode() in content]
        for entry in record["history"]:
            assert str(entry["miou"]).encode() in run, f"{name}: step {entry['step']} of its run is not in its file"


@pytest.mark.slow
def test_a_run_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "1"}
    words = ("--storage", tmp_path, "--stage", "teacher", "--log", "wandb")
    done = kdtune("launch", write_study(tmp_path), *words, env=nobody | {"WANDB_MODE": "online"})
    assert done.returncode == 0, done.stderr
    (name,) = journals(tmp_path)
    assert f"--log wandb: {name}: its run was not written: " in done.stderr
    assert f"what was written is in {tmp_path}/tiny/wandb" in done.stderr


@pytest.mark.slow
def test_a_launch_that_is_cut_off_ends_at_once_and_so_do_its_runs(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "WANDB_MODE": "offline"}
    longer = STUDY.replace("num_steps: 6,", "num_steps: 6000,")
    words = ("--storage", tmp_path, "--stage", "student", "--log", "mlflow", "--log", "wandb")
    process = start("launch", write_study(tmp_path, longer), *words, env=env)
    try:
        until(lambda: any(entry["history"] for entry in journals(tmp_path).values()))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)  # not the half hour that Tune's callback waits
    finally:
        end(process)
    assert "interrupted; nothing finished is lost" in errors
    assert "--log" not in errors.replace(" --log mlflow --log wandb", "")
    client = mlflow.MlflowClient(tracking_uri=env["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == "KILLED"
    (written,) = (tmp_path / "tiny" / "wandb").glob("offline-run-*/*.wandb")
    (record,) = journals(tmp_path).values()
    assert str(record["history"][0]["miou"]).encode() in written.read_bytes()


def test_an_error_of_a_tool_is_said_once_and_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Guarded):
        tool = "broken"

        def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
            raise ConnectionError("no route to its server\nand more")

    callback = Broken()
    for i in range(2):
        callback.on_trial_result(i, [], None, {})
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "--log broken: no route to its server; what it has may be incomplete"
