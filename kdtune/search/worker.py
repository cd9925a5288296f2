"""What a Ray worker does: it follows one trial after the other and reports each evaluation to Tune."""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import contextlib
import errno
import gc
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from ray import tune

from kdtune import signs
from kdtune.base import UserError
from kdtune.cluster import loggers, meters, metrics, noticeboard
from kdtune.devices import hide_gpus
from kdtune.filesystem.lock import NAME as LOCK
from kdtune.filesystem.lock import may_be_of
from kdtune.filesystem.patience import NO_ROOM
from kdtune.records.journal import Overtaken, follow
from kdtune.records.storage import Record
from kdtune.records.trial_record import Planned
from kdtune.search.stage_context import SCORE, WORST, StageContext
from kdtune.text import shown
from kdtune.training.energy import Spent, unmeasured

# what no second try mends
LASTING = NO_ROOM | {
    errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
}  # fmt: skip

_training = logging.getLogger("kdtune.training")
_training.setLevel(logging.INFO)


def run_trial(given: Mapping[str, Any]) -> None:
    """In a Ray worker: one trial, from its journal to its end; Ray hears of every evaluation."""
    context: StageContext = noticeboard.get(given["context"])
    torch.set_num_threads(context.threads)  # here, in the thread that computes: OpenMP counts per thread
    _take_share(context.gpus)
    planned = context.at(given)
    notes: list[str] = []
    context.storage.folder.expected()
    spent = meters.spent(context.gpus, planned.trial_id)
    said = Said(given.get("title", planned.trial_id), planned.trial_id)
    _training.addHandler(said)
    try:
        _refuse_if_lost(context)
        for record in _followed(planned, context, notes.append, spent):
            row = record["row"]
            said.evaluation(row)
            score = WORST if row["miou"] is None else row["miou"]
            told = {"trial": row["trial_id"], "step": row["step"] or 0, "status": row["status"], SCORE: score}
            metrics.show(row)
            if context.followed:  # by step, not by the number of its evaluation
                told |= loggers.reported(row, record["history"][-1] if record["history"] else {})
                told |= {"timesteps_total": row["step"] or 0}
            with signs.excused():  # the driver takes it when it can
                tune.report(told | {"error": row["error"], "notes": notes[:]})
            notes.clear()
    except Overtaken:
        raise SystemExit from None
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in LASTING:
            raise  # storage may be away for a moment: Tune tries the trial again
        refusal = context.storage.unusable(error) if isinstance(error, OSError) else error
        said.end(f"refused: {refusal}")
        tune.report({"trial": planned.trial_id, "step": 0, "status": "refused", SCORE: WORST, "error": str(refusal)})
    finally:
        said.end("left: its launch has stopped it, lets it pause, or has ended")
        _training.removeHandler(said)
        spent.end()
        if torch.cuda.is_available():
            gc.collect()  # what an error's traceback held
            torch.cuda.empty_cache()  # the process stays for the next trial, and others share the GPU


class Said(logging.Handler):
    """What a trial says in its worker's log, which Ray's dashboard shows. Each line names it: others follow there."""

    def __init__(self, title: str, trial_id: str) -> None:
        super().__init__()
        self._title, self._ended = title, False
        self._say(f"begins, trial {trial_id}")

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """Each of its records; the last says how it ended."""
        miou = "no mIoU" if row["miou"] is None else f"mIoU {row['miou']:.2f} %"
        self._say(f"step {row['step'] or 0} of {row['steps_total']}: {miou}")
        if row["status"] != "running":
            self.end(f"{row['status']}{': ' + row['error'] if row['error'] else ''}")

    def emit(self, record: logging.LogRecord) -> None:
        """What the loop says between two evaluations."""
        self._say(record.getMessage())

    def end(self, why: str) -> None:
        """Once."""
        if not self._ended:
            self._ended = True
            self._say(why)

    def _say(self, words: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody needs it to go on
            print(shown(f"{self._title}: {words}"), file=sys.stderr, flush=True)  # the dashboard opens this log


def _take_share(gpus: float) -> None:
    """Of a GPU no more than was given; without a share none: Ray lets a worker see all GPUs of its node then."""
    if not gpus:
        hide_gpus()
    elif torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(min(gpus, 1.0))  # the rest is others'


def _followed(
    planned: Planned, context: StageContext, note: Callable[[str], None], spent: Spent = unmeasured
) -> Iterator[Record]:
    """A trial's records; from its last state once more where a GPU's memory was full: its neighbours may have gone."""
    for last in (False, True):
        try:
            where = (planned, context.site, context.storage, note, context.trainer, spent)
            yield from follow(*where, last_try=last)
            return
        except torch.OutOfMemoryError:
            if last:
                raise
            note(f"{planned.trial_id}: the GPU's memory was full; tried once more from its last state")
        gc.collect()  # what the traceback held
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _refuse_if_lost(context: StageContext) -> None:
    """Ends this worker if another launch has taken the study over.

    Asked once, before a trial: later its driver ends it, and what it writes until then is fenced by its attempt.
    """
    content = context.storage.folder.read(LOCK)
    if context.token is not None and (content is None or not may_be_of(content, context.token)):
        raise SystemExit
