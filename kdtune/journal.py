"""A trial that leaves a trace: runs it from where its journal says, and writes every evaluation down."""

import os
import platform
import resource
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

import kdtune
from kdtune import rows, trial
from kdtune.base import UserError, compute_device
from kdtune.spec import TrialConfig
from kdtune.storage import Record, Storage, new_row
from kdtune.train import Evaluation, Run
from kdtune.weights import WeightsRecord


@dataclass(frozen=True)
class Planned:
    """A trial of a plan: which it is, and what it runs."""

    study: str
    stage: str
    start: str
    config: TrialConfig

    @property
    def trial_id(self) -> str:
        """See ``TrialConfig.trial_id``."""
        return self.config.trial_id(self.stage)


def new_record(planned: Planned) -> Record:
    """The journal of a trial before its first evaluation."""
    facts = rows.hyperparameters(planned.config) | {
        "kdtune_version": kdtune.__version__,
        "torch_version": str(torch.__version__),
    }
    row = new_row(planned.study, planned.stage, planned.trial_id, planned.start, facts)
    return {"row": row, "history": [], "state": None}


def follow(planned: Planned, site: trial.Site, storage: Storage) -> Iterator[Record]:
    """Runs a trial from its last checkpoint to its end; the journal is on storage before each record is yielded.

    Each evaluation is one commit: the state first, then the journal that names it, then the older state goes. A trial
    whose loss is not finite ends as ``diverged``, one that raises ends as ``failed``, each with the reason in its row;
    bad input (``UserError``) is raised, for it would end every other trial too.
    """
    record = storage.record(planned.trial_id) or new_record(planned)
    saved = storage.read_state(record)
    if saved is None:
        record = new_record(planned)
    record["row"] |= _place() | {"status": "running", "error": None}
    record["row"]["started_at"] = record["row"]["started_at"] or time.time()
    if record["history"] and _done(record):  # it was killed after its last checkpoint, before anyone noted the end
        yield _end(record, "completed", storage)
        return
    try:
        run: Run | None = None
        for evaluation, run in trial.run(planned.config, site, saved):
            _note(record, evaluation, planned.config)
            if evaluation.diverged:
                record["row"]["error"] = evaluation.error
                break
            last = evaluation.step >= planned.config.recipe.num_steps
            if last:
                storage.write_weights(planned.trial_id, run.student, _weights_record(planned))
            record["state"] = storage.write_state(planned.trial_id, evaluation.step, run.state_dict())
            if last:
                break
            storage.write_record(record)
            storage.remove_states(planned.trial_id, keep=record["state"]["file"])
            yield record
        yield _end(record, "diverged" if record["row"]["miou"] is None else "completed", storage)
    except (UserError, OSError):
        raise
    except Exception as error:
        record["row"]["error"] = _short(error)
        yield _end(record, "failed", storage)


def stop(record: Record, storage: Storage) -> Record:
    """Notes that the scheduler stopped a trial. Its state stays: without early stopping it can go on."""
    record["row"] |= {"status": "stopped", "finished_at": time.time()}
    storage.write_record(record)
    return record


def fail(record: Record, reason: str, storage: Storage) -> Record:
    """Notes that a trial's process was lost too often."""
    record["row"] |= {"status": "failed", "error": reason, "finished_at": time.time()}
    storage.write_record(record)
    return record


def _done(record: Record) -> bool:
    return bool(record["row"]["step"] is not None and record["row"]["step"] >= record["row"]["steps_total"])


def _end(record: Record, status: str, storage: Storage) -> Record:
    """The last commit of a trial. A completed one keeps its weights only."""
    record["row"] |= {"status": status, "finished_at": time.time()}
    if status in ("completed", "diverged"):
        record["state"] = None
    storage.write_record(record)
    if record["state"] is None:
        storage.remove_states(record["row"]["trial_id"])
    return record


def _weights_record(planned: Planned) -> WeightsRecord:
    config = planned.config
    return WeightsRecord(
        model=config.student.model_dump(mode="json"),
        num_classes=config.dataset.num_classes,
        dataset=config.dataset.name,
        classes=tuple(config.dataset.class_names),
        source={"study": planned.study, "trial": planned.trial_id},
    )


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


def _short(error: Exception) -> str:
    """The error and the line of kdtune it came from; the whole traceback is in the worker's log."""
    traceback.print_exc()
    own = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}kdtune{os.sep}" in f.filename]
    where = f" ({os.path.basename(own[-1].filename)}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{where}"
