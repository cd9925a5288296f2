"""A trial that leaves a trace: runs it from where its journal says, and writes every evaluation down."""

import contextlib
import logging
import os
import platform
import resource
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import kdtune
from kdtune.base import UserError
from kdtune.devices import compute_device
from kdtune.filesystem.patience import AWAY
from kdtune.records.journal_files import Record
from kdtune.records.lengths import keep_length, of_known_length
from kdtune.records.storage import KEPT_STATES, Storage
from kdtune.records.trial_log import LONGEST, Output
from kdtune.records.trial_record import LESS_MEMORY, Planned, new_record
from kdtune.study.names import FINAL
from kdtune.study.recipe import Recipe
from kdtune.study.trial_config import TrialConfig
from kdtune.training.energy import Spent, unmeasured
from kdtune.training.loop import Evaluation, Run
from kdtune.training.numerics import NUMERICS
from kdtune.training.site import Site
from kdtune.training.trainer import Trainer, train_and_evaluate
from kdtune.training.weights_record import record_of

_log = logging.getLogger("kdtune")


class Overtaken(Exception):
    """Another process has claimed the trial: this one was believed dead, and must write nothing more."""


def follow(
    planned: Planned,
    site: Site,
    storage: Storage,
    note: Callable[[str], None] = _log.warning,
    trainer: Trainer = train_and_evaluate,
    spent: Spent = unmeasured,
    *,
    last_try: bool = True,
) -> Iterator[Record]:
    """Runs a trial from its last checkpoint to its end; the journal is on storage before each record is yielded.

    It begins with a claim, so that what an earlier process of the same trial may still write is not read any more.
    Each evaluation is one commit: the state first, then the journal that names it, then the state before the last
    may be written over. A trial whose loss is not finite ends as ``diverged``, one that raises ends as ``failed``,
    each with the reason in its row; bad input (``UserError``) is raised, for it would end every other trial too.
    ``note`` is told of damaged states. ``spent`` tells the energy that this process has used for the trial.
    A trial that has come to its end is told once more, and not run: whoever asks has not heard of it.

    Raises:
        UserError: bad input.
        torch.OutOfMemoryError: of a GPU, unless it is the ``last_try``; the trial can go on from its last state.
        Overtaken: another process has claimed the trial.
        OSError: storage is away, or full.
    """
    before = storage.record(planned.trial_id)
    fits = before is not None and before["row"].get("numerics") == NUMERICS
    if before is not None and fits and before["row"]["status"] in ("completed", "diverged"):
        yield before
        return
    record, saved = _resumed(planned, before, storage, note, fits=fits)
    yield from _claimed(planned, record, saved, site, storage, trainer, spent, last_try=last_try)


def _claimed(
    planned: Planned,
    record: Record,
    saved: dict[str, Any] | None,
    site: Site,
    storage: Storage,
    trainer: Trainer,
    spent: Spent,
    *,
    last_try: bool,
) -> Iterator[Record]:
    """Runs a trial from this state on."""
    record.pop("traceback", None)  # of an earlier attempt
    record["row"] |= _place() | {"status": "running", "error": None}
    record["row"]["started_at"] = record["row"]["started_at"] or time.time()
    storage.claim(record)
    output = Output()
    try:
        config = of_known_length(planned.config, record, site, storage, spent)
        for evaluation, run in output.during(trainer(config, site, saved, spent)):
            _keep(output, record, storage)
            _note(record, evaluation, planned.config)
            record["row"] |= run.columns()
            if storage.overtaken(record):
                raise Overtaken
            if evaluation.diverged:
                record["row"]["error"] = evaluation.error
                break
            if evaluation.step >= record["row"]["steps_total"]:
                record["row"] |= _left(planned, evaluation, run, storage)
                break
            _commit(record, storage, evaluation.step, run)
            yield record
        yield _end(record, "diverged" if record["row"]["miou"] is None else "completed", storage)
    except Exception as error:
        if _ends_process(error, storage):
            if not isinstance(error, Overtaken):
                _withdraw(record, storage)
            raise
        _keep(output, record, storage)
        record["row"]["error"] = _short(error, planned.config.recipe)
        record["traceback"] = traceback.format_exc()[-LONGEST:]
        full = isinstance(error, torch.OutOfMemoryError) and not last_try
        if full or _gpu_is_lost():  # the next try, or another process, goes on from the last state
            storage.write_record(record)
            raise
        yield _end(record, "failed", storage)


def _withdraw(record: Record, storage: Storage) -> None:
    """Takes the claim of a trial back that has nothing to go on from."""
    if not record["states"]:
        with contextlib.suppress(OSError):
            storage.withdraw(record)


def _ends_process(error: Exception, storage: Storage) -> bool:
    """Whether an error is no fault of the configuration: bad input, storage that refuses, a disk that may come back."""
    if isinstance(error, OSError) and not isinstance(error, UserError):
        return error.errno in AWAY or storage.refused(error)
    return isinstance(error, UserError | Overtaken)


def _gpu_is_lost() -> bool:
    """Whether CUDA has an error that stays, as after a failed assertion: all that this process tries there fails."""
    if not torch.cuda.is_available():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _resumed(
    planned: Planned, record: Record | None, storage: Storage, note: Callable[[str], None], *, fits: bool
) -> tuple[Record, dict[str, Any] | None]:
    """The trial's journal with its last good state, the journal cut where that state is; a new one if there is none.

    What other numerics have begun (it does not ``fit``) begins anew: half of each would be neither.
    """
    trial_id = planned.trial_id
    for i, state in enumerate(record["states"] if record and fits else []):
        saved = storage.read_state(trial_id, state)
        if record is not None and saved is not None:
            record["states"] = record["states"][i:]
            record["history"] = [entry for entry in record["history"] if entry["step"] <= state["step"]]
            return record, saved
        note(f"{storage.folder.uri}/checkpoints/{trial_id}/{state['file']}: damaged or missing, and skipped")
    anew = new_record(planned) | {key: record[key] for key in ("attempt", "replaces") if record and key in record}
    if record is not None:
        keep_length(anew, record)
    return anew, None


def _keep(output: Output, record: Record, storage: Storage) -> None:
    """What the trial has printed; no result is lost for it."""
    if output.news:
        with contextlib.suppress(OSError):
            storage.write_log(record["row"]["trial_id"], record["attempt"], output.text())


def _commit(record: Record, storage: Storage, step: int, run: Run) -> None:
    """The state, then the journal that names it; the states before the last two are no longer needed."""
    trial_id = record["row"]["trial_id"]
    written = storage.write_state(trial_id, record["attempt"], step, run.state_dict(), record["states"])
    states = [written, *record["states"]]
    record["states"] = states[:KEPT_STATES]
    storage.write_record(record)
    for state in states[KEPT_STATES:]:  # by name: a process that was overtaken must not remove its successor's
        storage.remove_state(trial_id, record["attempt"], state)


def _end(record: Record, status: str, storage: Storage) -> Record:
    """The last commit of a trial. A completed one keeps its weights only."""
    record["row"] |= {"status": status, "finished_at": time.time()}
    if status in ("completed", "diverged"):
        record["states"] = []
    storage.write_record(record)
    if not record["states"]:
        storage.remove_states(record["row"]["trial_id"])
    return record


def _left(planned: Planned, evaluation: Evaluation, run: Run, storage: Storage) -> dict[str, str | None]:
    """Writes what a completed trial leaves; returns the columns with the digests of it."""
    record = record_of(planned.config, {"study": planned.study, "trial": planned.trial_id})
    digests = {"weights_sha256": storage.write_weights(planned.trial_id, run.student, record)}
    if planned.stage == FINAL and evaluation.images is not None:
        digests["image_counts_sha256"] = storage.write_image_counts(planned.trial_id, evaluation.images)
    return digests


def _place() -> dict[str, Any]:
    device = compute_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"node": platform.node(), "device": name}


def _note(record: Record, evaluation: Evaluation, config: TrialConfig) -> None:
    """Adds an evaluation to row and history."""
    row, history = record["row"], record["history"]
    entry = {"study": row["study"], "stage": row["stage"], "trial_id": row["trial_id"]}
    entry |= {"step": evaluation.step, "miou": evaluation.miou, "loss": evaluation.loss}
    entry |= {f"loss_{name}": value for name, value in evaluation.losses.items()}
    entry |= {f"grad_norm_{name}": value for name, value in evaluation.grad_norms.items()}
    history.append(entry | {"lr_now": evaluation.lr_now, "seconds": evaluation.seconds})
    known = [entry["miou"] for entry in history if entry["miou"] is not None]
    row |= {
        "miou": evaluation.miou,
        "miou_best": max(known, default=None),
        "step": evaluation.step,
        "per_class_iou": evaluation.per_class_iou or None,
        "train_seconds": evaluation.seconds,
        "images_per_second": evaluation.step * config.recipe.batch_size / evaluation.seconds
        if evaluation.seconds > 0
        else None,
        "peak_memory_mb": _peak_memory_mb(),
    }


def _peak_memory_mb() -> float:
    """Of the GPU where there is one, else of this process since it began (trials before this one included)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def _short(error: Exception, recipe: Recipe) -> str:
    """The error and the line that it came from; the whole traceback is in the journal and the worker's log."""
    traceback.print_exc()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        told = (str(error).splitlines() or [type(error).__name__])[0]
        size = f"batches of {recipe.batch_size}, crops of {recipe.crop[0]} x {recipe.crop[1]}"
        return f"out of memory: {told} ({size}{_share()}); {LESS_MEMORY}"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} ({_where(error)})"


def _share() -> str:
    """How much of the GPU's memory this process may take, in words; nothing where that is all."""
    share = torch.cuda.get_per_process_memory_fraction() if torch.cuda.is_available() else 1.0
    return f", {share:.0%} of the GPU's memory" if share < 1.0 else ""


def _where(error: Exception) -> str:
    """The line that raised it; if that is a library's, the line before it that called the library, too."""
    lines = [(line.filename, line.lineno) for line in traceback.extract_tb(error.__traceback__)]
    lines = [line for line in lines if not line[0].startswith("<")] or lines
    installed = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
    ours = Path(kdtune.__file__).parent.as_posix()  # may be installed beside the libraries
    own = [line for line in lines if line[0].startswith(ours) or not line[0].startswith(installed)]
    shown = dict.fromkeys([*own[-1:], *lines[-1:]])
    return ", then ".join(f"{os.path.basename(name)}:{number}" for name, number in shown)
