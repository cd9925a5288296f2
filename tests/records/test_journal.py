"""A trial that leaves a trace: every commit on disk, and nothing lost or run twice."""

import errno
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from kdtune.base import LossTerm, SegOutput, UserError
from kdtune.records import journal
from kdtune.records.journal import Overtaken, follow
from kdtune.records.storage import WEIGHTS, Record, Storage
from kdtune.records.trial_record import Planned, fail, new_record, stop
from kdtune.study.trial_config import TrialConfig
from kdtune.training import trial
from kdtune.training.loop import Evaluation, Run
from kdtune.training.site import Site
from kdtune.training.weights import read_record
from tests.support.image_counts import iou, matrix
from tests.support.tiny import config, evaluations, teacher

pytestmark = pytest.mark.usefixtures("one_thread")
OWN = {"train_seconds", "images_per_second", "peak_memory_mb", "started_at", "finished_at", "seconds"} | {
    "energy_kwh", "co2_kg", "inference_kwh", "inference_co2_kg", "inference_images"
}  # fmt: skip


def planned(which: TrialConfig) -> Planned:
    return Planned("s", "student", "base", which)


def essence(record: Record) -> Record:
    """A journal without times, memory and speed."""
    row = {key: value for key, value in record["row"].items() if key not in OWN}
    return {"row": row, "history": [{k: v for k, v in entry.items() if k not in OWN} for entry in record["history"]]}


def files(storage: Storage, which: TrialConfig) -> list[str]:
    return (storage.folder / "checkpoints" / planned(which).trial_id).names()


def weights(storage: Storage, which: TrialConfig) -> bytes | None:
    return (storage.folder / "checkpoints" / planned(which).trial_id).read(WEIGHTS)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"), "s")


@pytest.fixture
def undisturbed(tmp_path: Path) -> Callable[[TrialConfig], tuple[Record, bytes | None]]:
    """The journal and the weights of the same trial, run at one go."""

    def run(which: TrialConfig) -> tuple[Record, bytes | None]:
        other = Storage(str(tmp_path / "undisturbed"), "s")
        return essence(list(follow(planned(which), Site(), other))[-1]), weights(other, which)

    return run


def test_the_journal_is_on_disk_before_each_record_is_seen(tiny: TrialConfig, storage: Storage) -> None:
    steps = []
    for record in follow(planned(tiny), Site(), storage):
        on_disk = storage.record(planned(tiny).trial_id)
        assert on_disk == json.loads(json.dumps(record))
        steps.append((on_disk["row"]["step"], on_disk["row"]["status"], files(storage, tiny)))
        steps_kept = []
        for written in on_disk["states"]:
            state = storage.read_state(planned(tiny).trial_id, written)
            assert state is not None
            steps_kept.append(state["step"])
        assert steps_kept == [step for step in (on_disk["row"]["step"], 2) if steps_kept][: len(steps_kept)]
    assert steps == [
        (2, "running", ["state-1-0.pt"]),
        (4, "running", ["state-1-0.pt", "state-1-1.pt"]),
        (6, "completed", [WEIGHTS]),
    ]


def test_the_row_says_what_the_evaluations_did(tiny: TrialConfig, storage: Storage) -> None:
    *_, record = follow(planned(tiny), Site(), storage)
    expected, student = evaluations(tiny)
    row, history = record["row"], record["history"]
    assert [entry["miou"] for entry in history] == [each["miou"] for each in expected]
    assert [entry["loss_ce"] for entry in history] == [each["losses"]["ce"] for each in expected]
    assert [entry["grad_norm_ce"] for entry in history] == [each["grad_norms"]["ce"] for each in expected]
    assert (row["miou"], row["per_class_iou"]) == (expected[-1]["miou"], expected[-1]["per_class_iou"])
    assert row["miou_best"] == max(each["miou"] for each in expected)
    assert (row["step"], row["steps_total"], row["error"]) == (6, 6, None)
    assert row["images_per_second"] == pytest.approx(12 / row["train_seconds"])
    assert 0 < row["train_seconds"] < row["finished_at"] - row["started_at"] + 1
    assert row["peak_memory_mb"] > 10
    written = safetensors.torch.load(weights(storage, tiny) or b"")
    assert all(value.equal(written[key]) for key, value in safetensors.torch.load(student).items())
    record = read_record(storage.checkpoint_uri(planned(tiny).trial_id))
    assert record is not None
    assert (record.model, record.dataset, record.num_classes) == (tiny.student.model_dump(mode="json"), "demo", 12)


@pytest.mark.parametrize("seen", [1, 2])
def test_a_trial_left_on_the_way_ends_as_if_undisturbed(
    tmp_path: Path, storage: Storage, undisturbed: Any, seen: int
) -> None:
    which = config({"teacher": teacher(tmp_path), "losses.pi": {"weight": 0.5}})
    begun = follow(planned(which), Site(), storage)
    for _ in range(seen):
        next(begun)
    begun.close()
    rest = list(follow(planned(which), Site(), storage))
    assert len(rest) == 3 - seen
    assert (essence(rest[-1]), weights(storage, which)) == undisturbed(which)


def damage(storage: Storage, which: TrialConfig, file: str, harm: str) -> None:
    """Removes a state, or changes a bit of it."""
    checkpoints = storage.folder / "checkpoints" / planned(which).trial_id
    content = checkpoints.read(file)
    assert content is not None
    checkpoints.remove(file)
    if harm == "damaged":
        checkpoints.write(file, content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("harm", ["damaged", "gone"])
@pytest.mark.parametrize("harmed", [1, 2])
def test_a_damaged_state_is_named_and_skipped(storage: Storage, undisturbed: Any, harm: str, harmed: int) -> None:
    """The trial goes on from the one before, and from the start when both are gone."""
    which = config({"recipe.num_steps": 8})
    begun = follow(planned(which), Site(), storage)
    for _ in range(3):
        record = next(begun)
    begun.close()
    assert [state["step"] for state in record["states"]] == [6, 4]
    for state in record["states"][:harmed]:
        damage(storage, which, state["file"], harm)
    notes: list[str] = []
    again = list(follow(planned(which), Site(), storage, notes.append))
    assert len(again) == {1: 2, 2: 4}[harmed]
    assert (essence(again[-1]), weights(storage, which)) == undisturbed(which)
    assert [note.split("/")[-1] for note in notes] == [
        f"state-1-{slot}.pt: damaged or missing, and skipped" for slot in (2, 1)[:harmed]
    ]
    assert files(storage, which) == [WEIGHTS]


def test_a_damaged_journal_is_named_and_skipped(
    tiny: TrialConfig, storage: Storage, undisturbed: Any, caplog: pytest.LogCaptureFixture
) -> None:
    begun = follow(planned(tiny), Site(), storage)
    next(begun)
    begun.close()
    name = f"{planned(tiny).trial_id}.1.json"
    content = (storage.folder / "journal").read(name)
    assert content is not None
    (storage.folder / "journal").write(name, content[: len(content) // 2])
    assert storage.records() == {}
    assert f"{name}: damaged, and skipped" in caplog.text
    again = list(follow(planned(tiny), Site(), storage))
    assert (essence(again[-1]), weights(storage, tiny)) == undisturbed(tiny)


@pytest.mark.parametrize("field", ["states", "history", "attempt", "row"])
def test_a_journal_without_a_field_is_damaged(
    field: str, tiny: TrialConfig, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    *_, last = follow(planned(tiny), Site(), storage)
    name = f"{planned(tiny).trial_id}.1.json"
    (storage.folder / "journal").write(name, json.dumps({k: v for k, v in last.items() if k != field}).encode())
    assert storage.records() == {}
    assert f"{name}: damaged, and skipped" in caplog.text


def test_a_state_that_no_journal_names_is_not_used(tiny: TrialConfig, storage: Storage, undisturbed: Any) -> None:
    begun = follow(planned(tiny), Site(), storage)
    next(begun)
    begun.close()
    trial_id = planned(tiny).trial_id
    storage.write_state(trial_id, 1, 4, {"killed": "before the journal was written"})
    half = storage.folder / "checkpoints" / trial_id
    half.write("state-1-0.pt.4711-1.partial", b"killed while it was written")
    rest = list(follow(planned(tiny), Site(), storage))
    assert (essence(rest[-1]), weights(storage, tiny)) == undisturbed(tiny)
    assert half.names(unfinished=True) == [WEIGHTS]


@pytest.mark.parametrize("seen", [0, 1, 2])
def test_late_writes_of_a_process_believed_dead_are_fenced(storage: Storage, undisturbed: Any, seen: int) -> None:
    """Its worker's node was lost, a successor has begun; the old one still trains, and has missed all of it."""
    which = config({"recipe.num_steps": 12})
    old = follow(planned(which), Site(), storage)
    for _ in range(seen):
        next(old)
    new = follow(planned(which), Site(), storage)
    next(new)
    before = (storage.record(planned(which).trial_id), files(storage, which))
    if seen:
        with pytest.raises(Overtaken):
            next(old)
        assert (storage.record(planned(which).trial_id), files(storage, which)) == before
    else:  # it had not even claimed the trial: now it has, and the successor is the one that must stop
        next(old)
        with pytest.raises(Overtaken):
            list(new)
        new = old
    *_, last = new
    assert (essence(last), weights(storage, which)) == undisturbed(which)


def test_what_an_overtaken_process_was_writing_is_not_read(tiny: TrialConfig, storage: Storage) -> None:
    """It looked, was alone, and wrote after its successor had claimed the trial: no look can exclude that."""
    old = follow(planned(tiny), Site(), storage)
    stale = json.loads(json.dumps(next(old)))
    *_, last = follow(planned(tiny), Site(), storage)
    stale["row"]["miou"] = 99.0
    storage.write_record(stale)
    assert storage.record(planned(tiny).trial_id) == json.loads(json.dumps(last))
    assert storage.records() == {planned(tiny).trial_id: json.loads(json.dumps(last))}


@pytest.mark.slow
def test_a_process_killed_at_any_moment_can_be_gone_on_from(
    tiny: TrialConfig, storage: Storage, undisturbed: Any
) -> None:
    which = tiny.replace({"recipe.num_steps": 120, "recipe.eval_every": 12})
    program = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from kdtune.records.journal import follow\n"
        "from kdtune.records.trial_record import Planned\n"
        "from kdtune.study.trial_config import TrialConfig\n"
        "from kdtune.records.storage import Storage\n"
        "from kdtune.training.site import Site\n"
        "which = TrialConfig.model_validate_json(sys.argv[1])\n"
        "for record in follow(Planned('s', 'student', 'base', which), Site(), Storage(sys.argv[2], 's')):\n"
        "    print(record['row']['step'], flush=True)\n"
    )
    command = [sys.executable, "-c", program, which.model_dump_json(), storage.root]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["12\n", "24\n", "36\n"]
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    rest = list(follow(planned(which), Site(), storage))
    assert len(rest) < 8
    assert (essence(rest[-1]), weights(storage, which)) == undisturbed(which)


def test_a_diverged_trial_is_a_result(tiny: TrialConfig, storage: Storage) -> None:
    which = tiny.replace({"recipe.lr": 1e9, "recipe.num_steps": 60, "recipe.eval_every": 20})
    (record,) = follow(planned(which), Site(), storage)
    row = record["row"]
    assert (row["status"], row["miou"], row["miou_best"], row["step"]) == ("diverged", None, None, 10)
    assert row["error"].startswith("losses.ce is not finite at step ")
    assert record["history"][-1]["loss"] is None
    assert files(storage, which) == []
    content = (storage.folder / "journal").read(f"{planned(which).trial_id}.1.json")
    assert content is not None
    json.loads(content, parse_constant=pytest.fail)  # NaN and Infinity are not JSON


FUSE: list[int] = []  # how many calls a bomb has left


class Bomb(LossTerm):
    """Raises at its last call."""

    symbol = "L_B"
    source = "these tests"
    needs_teacher = False

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        if FUSE:
            FUSE[0] -= 1
            if FUSE[0] == 0:
                raise RuntimeError("bang\nand a second line")
        return student.logits.square().mean()


def test_a_failed_trial_says_why_and_keeps_what_it_has(tiny: TrialConfig, storage: Storage, undisturbed: Any) -> None:
    which = tiny.model_copy(update={"losses": {**tiny.losses, "bomb": Bomb(weight=0.1)}})
    FUSE[:] = [5]
    records = list(follow(planned(which), Site(), storage))
    FUSE.clear()
    assert len(records) == 3
    row = records[-1]["row"]
    assert (row["status"], row["step"], len(records[-1]["history"])) == ("failed", 4, 2)
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if 'RuntimeError("bang' in text)
    assert row["error"] == f"RuntimeError: bang (test_journal.py:{line})"  # where it was raised, whoever's code it is
    assert records[-1]["traceback"].splitlines()[-2:] == ["RuntimeError: bang", "and a second line"]
    assert f'test_journal.py", line {line}, in __call__' in records[-1]["traceback"]
    assert storage.record(planned(which).trial_id) == json.loads(json.dumps(records[-1]))
    (rest,) = follow(planned(which), Site(), storage)  # asked for again, it goes on
    assert (essence(rest), weights(storage, which)) == undisturbed(which)
    assert rest["row"]["error"] is None
    assert "traceback" not in rest


def test_a_trial_that_fails_at_its_first_step_has_a_journal(tiny: TrialConfig, storage: Storage) -> None:
    alone = tiny.recipe.model_copy(update={"batch_size": 1})  # BatchNorm needs two values per channel
    which = tiny.model_copy(update={"recipe": alone})  # which a study file could not say
    (record,) = follow(planned(which), Site(), storage)
    assert record["row"]["status"] == "failed"
    assert record["row"]["error"].startswith("ValueError: Expected more than 1 value per channel")
    # the line of ours that asked for it, then that of the library which refused
    assert re.search(r" \(pspnet_network\.py:\d+, then functional\.py:\d+\)$", record["row"]["error"])
    assert (record["row"]["miou"], record["history"], files(storage, which)) == (None, [], [])
    assert storage.record(planned(which).trial_id) == record


@pytest.mark.parametrize("rate", [0.05, 1e9])
def test_a_trial_that_has_come_to_its_end_is_told_again_and_not_run(
    tiny: TrialConfig, storage: Storage, rate: float
) -> None:
    """Its process was lost, or whoever heard of it, between its journal and the news of it."""
    which = tiny.replace({"recipe.lr": rate})
    *_, last = follow(planned(which), Site(), storage)
    (told,) = follow(planned(which), Site(), storage)
    assert told == json.loads(json.dumps(last))
    assert told["row"]["status"] == ("completed" if rate < 1 else "diverged")
    assert told["attempt"] == 1


def test_bad_input_is_raised_and_leaves_no_journal(tmp_path: Path, storage: Storage) -> None:
    missing = {**teacher(tmp_path), "checkpoint": str(tmp_path / "none.pt")}
    which = config({"teacher": missing, "losses.pi": {"weight": 0.5}})
    with pytest.raises(UserError, match="no such weights file"):
        list(follow(planned(which), Site(), storage))
    assert storage.records() == {}


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "/secret"), ConnectionError("no route"), OSError(28, "No space")]
)
def test_an_error_of_the_system_that_is_not_the_storages(
    tiny: TrialConfig, storage: Storage, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that opens a file it may not read is a failed trial, with its traceback; the storage is sound."""

    def refuse(self: Bomb, *args: object) -> Tensor:
        raise error

    monkeypatch.setattr(Bomb, "__call__", refuse)
    which = tiny.model_copy(update={"losses": {**tiny.losses, "bomb": Bomb(weight=0.1)}})
    (record,) = follow(planned(which), Site(), storage)
    assert record["row"]["status"] == "failed"
    assert record["row"]["error"].startswith(type(error).__name__)
    assert record["traceback"].splitlines()[-1].endswith(str(error))


def test_a_disk_that_may_come_back_is_no_fault_of_the_trial(
    tiny: TrialConfig, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Bomb, *args: object) -> Tensor:
        raise OSError(errno.ESTALE, "Stale file handle", "/data/image.png")

    monkeypatch.setattr(Bomb, "__call__", refuse)
    which = tiny.model_copy(update={"losses": {**tiny.losses, "bomb": Bomb(weight=0.1)}})
    with pytest.raises(OSError, match="Stale"):
        list(follow(planned(which), Site(), storage))


def test_a_storage_that_cannot_be_written_is_raised(tiny: TrialConfig, storage: Storage) -> None:
    storage.folder.write("checkpoints", b"a file stands where the folder should be")
    with pytest.raises(OSError, match="checkpoints"):
        list(follow(planned(tiny), Site(), storage))
    assert storage.records() == {}


def test_a_stopped_trial_can_go_on(tiny: TrialConfig, storage: Storage, undisturbed: Any) -> None:
    begun = follow(planned(tiny), Site(), storage)
    record = next(begun)
    begun.close()
    stopped = stop(record, storage)
    assert (stopped["row"]["status"], files(storage, tiny)) == ("stopped", ["state-1-0.pt"])
    assert stopped["row"]["finished_at"] >= stopped["row"]["started_at"]
    assert storage.record(planned(tiny).trial_id) == json.loads(json.dumps(stopped))
    rest = list(follow(planned(tiny), Site(), storage))
    assert [each["row"]["step"] for each in rest[-1:]] == [6]
    assert (essence(rest[-1]), weights(storage, tiny)) == undisturbed(tiny)


def test_a_lost_trial_is_noted(tiny: TrialConfig, storage: Storage) -> None:
    record = fail(new_record(planned(tiny)), "its process was lost 3 times", storage)
    assert storage.records() == {planned(tiny).trial_id: record}
    assert (record["row"]["status"], record["row"]["error"]) == ("failed", "its process was lost 3 times")


def test_a_completed_trials_weights_evaluate_to_the_same(tiny: TrialConfig, storage: Storage) -> None:
    *_, record = follow(planned(tiny), Site(), storage)
    uri = storage.checkpoint_uri(planned(tiny).trial_id)
    only = config({"warm_start": {"checkpoint": uri, "part": "all"}, "recipe.num_steps": 0})
    ((evaluation, _),) = trial.run(only, Site())
    assert (evaluation.miou, evaluation.per_class_iou) == (record["row"]["miou"], record["row"]["per_class_iou"])


def test_a_trial_of_no_steps_completes(tiny: TrialConfig, storage: Storage) -> None:
    which = tiny.replace({"recipe.num_steps": 0})
    (record,) = follow(planned(which), Site(), storage)
    assert (record["row"]["status"], record["row"]["step"], len(record["history"])) == ("completed", 0, 1)
    assert record["row"]["images_per_second"] is None
    assert files(storage, which) == [WEIGHTS]


def test_a_trial_out_of_memory_says_how_to_need_less(tiny: TrialConfig, storage: Storage) -> None:
    which = tiny.replace({"recipe.crop": [2**21, 2**21]})  # tens of terabytes
    *_, record = follow(planned(which), Site(), storage)
    assert record["row"]["status"] == "failed"
    assert record["row"]["error"].startswith("out of memory: ")
    assert "--max-concurrent" in record["row"]["error"]
    assert storage.record(planned(which).trial_id) == record


def test_runs_of_the_comparison_leave_their_counts_over_images(tiny: TrialConfig, storage: Storage) -> None:
    """Those of stage ``final``, no other stage's."""
    final = Planned("s", "final", "student", tiny)
    *_, record = follow(final, Site(), storage)
    counts = storage.image_counts(final.trial_id, record["row"]["image_counts_sha256"])
    assert iou(matrix(counts, 12)) == pytest.approx(record["row"]["per_class_iou"])
    with pytest.raises(
        UserError, match=r"image_counts\.parquet: damaged; `kdtune launch s --storage .* --again final-"
    ):
        storage.image_counts(final.trial_id, "0" * 64)
    *_, record = follow(planned(tiny), Site(), storage)
    assert record["row"]["image_counts_sha256"] is None
    assert files(storage, tiny) == [WEIGHTS]


def test_a_gpu_that_answers_nothing_any_more_ends_the_process(
    tiny: TrialConfig, storage: Storage, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial is not failed: another process goes on from its last state, and comes to the same."""

    def lost_at_four(*given: Any) -> Iterator[tuple[Evaluation, Run]]:
        for evaluation, run in trial.run(*given):
            if evaluation.step == 4:
                raise RuntimeError("CUDA error: device-side assert triggered")
            yield evaluation, run

    monkeypatch.setattr(journal, "_gpu_is_lost", lambda: True)
    with pytest.raises(RuntimeError, match="device-side assert"):
        list(follow(planned(tiny), Site(), storage, trainer=lost_at_four))
    left = storage.record(planned(tiny).trial_id)
    assert left is not None
    assert (left["row"]["status"], left["row"]["step"]) == ("running", 2)
    assert "device-side assert triggered" in left["traceback"]
    monkeypatch.undo()
    *_, record = follow(planned(tiny), Site(), storage)
    assert essence(record) == essence(undisturbed(tiny)[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_failed_assertion_on_a_gpu_stays() -> None:
    code = (
        "import torch; from kdtune.records.journal import _gpu_is_lost\n"
        "assert not _gpu_is_lost()\n"
        "try:\n"
        "    torch.nn.functional.nll_loss(torch.zeros(1, 2, device='cuda'), torch.tensor([7], device='cuda')).item()\n"
        "except RuntimeError:\n"
        "    assert _gpu_is_lost()\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
