"""A trial's record where it is not running: before its first evaluation, and when it is ended from outside."""

import time
from dataclasses import dataclass

import kdtune
from kdtune.records.journal_files import Record
from kdtune.records.parameters import hyperparameters
from kdtune.records.storage import Storage, new_row
from kdtune.study.trial_config import TrialConfig
from kdtune.training.numerics import NUMERICS

LESS_MEMORY = (
    "run fewer trials at once (--max-concurrent, or a larger --gpus-per-trial), or lower recipe.batch_size; "
    "launched again, the study tries this trial anew"
)


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
    import torch  # for its version: who only looks at what has ended needs no torch

    facts = hyperparameters(planned.config) | {
        "numerics": NUMERICS,
        "kdtune_version": kdtune.__version__,
        "torch_version": str(torch.__version__),
    }
    row = new_row(planned.study, planned.stage, planned.trial_id, planned.start, facts)
    return {"row": row, "history": [], "states": [], "attempt": 0}


def stop(record: Record, storage: Storage) -> Record:
    """Notes that the scheduler stopped a trial. Its states stay: without early stopping it can go on."""
    record["row"] |= {"status": "stopped", "finished_at": time.time()}
    storage.write_record(record)
    return record


def fail(record: Record, reason: str, storage: Storage) -> Record:
    """Notes that a trial's process was lost too often; a claim, for what was lost may still run."""
    record["row"] |= {"status": "failed", "error": reason, "finished_at": time.time()}
    storage.claim(record)
    return record
