"""What a launch also writes for tools that follow experiments, by Tune's own callbacks; the record is the journal.

``tensorboard`` needs nothing more; ``mlflow`` and ``wandb`` are extras of the package, and read where to write, and as
whom, from the variables that their own documentation names.
"""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.logger import LoggerCallback
from ray.tune.logger.tensorboardx import TBXLoggerCallback

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder

NAMES = ("tensorboard", "mlflow", "wandb")
REPORTED = (  # of a trial's row and of its last evaluation
    *("miou", "images_per_second", "peak_memory_mb", "energy_kwh"),
    *("loss", "lr_now"),
)

_log = logging.getLogger("kdtune")

NameOf = Callable[[Any], str]  # a trial of Tune's -> our name of it


def folder_of(study: Folder) -> Path:
    """Where TensorBoard's files of a study lie: beside its tables, or on this machine where those lie elsewhere."""
    return study.local / "tensorboard" if study.local is not None else _elsewhere("tensorboard", study)


def _elsewhere(tool: str, study: Folder) -> Path:
    return Path.home() / ".cache" / "kdtune" / tool / study.uri.rstrip("/").rsplit("/", 1)[-1]


def callbacks(names: Sequence[str], study: Folder, study_name: str, name_of: NameOf) -> list[Any]:
    """Tune's callbacks of these names.

    Raises:
        UserError: an extra is not installed, or says not as whom to write.
    """
    makers: dict[str, Callable[[], Any]] = {
        "tensorboard": lambda: TensorBoard(folder_of(study), name_of),
        "mlflow": lambda: _mlflow(study_name),
        "wandb": lambda: _wandb(study, study_name),
    }
    return [makers[name]() for name in names]


def reported(row: dict[str, Any], last: dict[str, Any]) -> dict[str, float]:
    """The numbers of an evaluation that a person follows, without those that there are none of."""
    terms = {name: value for name, value in last.items() if name.startswith("loss_")}
    known = {name: value for name, value in {**row, **last}.items() if name in REPORTED}
    return {name: float(value) for name, value in (known | terms).items() if value is not None}


class Guarded(LoggerCallback):  # type: ignore[misc]
    """Has an error of a tool said, once: the launch and its trials go on without it.

    Tune takes one that is raised when a trial has completed for a failure of the trial, and runs it again.
    """

    tool = ""
    _said = False

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """As the others: Tune's, guarded."""
        self._guard(super().on_trial_start, iteration, trials, trial, **info)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._guard(super().on_trial_result, iteration, trials, trial, result, **info)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._guard(super().on_trial_complete, iteration, trials, trial, **info)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._guard(super().on_trial_error, iteration, trials, trial, **info)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Of those that the launch has cut off nothing was said before."""
        self._guard(self.cut_off)
        self._guard(super().on_experiment_end, trials, **info)

    def cut_off(self) -> None:
        """Ends what is open of trials that go on at another launch."""

    def _guard(self, call: Callable[..., None], *given: Any, **named: Any) -> None:
        try:
            call(*given, **named)
        except Exception as error:
            if not self._said:
                self._said = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                _log.warning("--log %s: %s; what it has may be incomplete", self.tool, reason)


class TensorBoard(Guarded, TBXLoggerCallback):  # type: ignore[misc]
    """Tune's logger, with a folder per trial under our name of it: Tune's own folders are moved when a stage ends."""

    tool = "tensorboard"

    def __init__(self, folder: Path, name_of: NameOf) -> None:
        super().__init__()
        self._folder, self._name_of = folder, name_of

    def __getstate__(self) -> dict[str, Any]:  # Tune keeps callbacks in a file that nobody reads; ours hold open files
        return {}

    def log_trial_start(self, trial: Any) -> None:
        """Opens the trial's file; one that goes on in another launch gets one more."""
        if trial in self._trial_writer:
            self._trial_writer[trial].close()
        self._trial_writer[trial] = self._summary_writer_cls(str(self._folder / self._name_of(trial)), flush_secs=30)
        self._trial_result[trial] = {}


def _mlflow(study: str) -> tune.Callback:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class ByStage(Guarded, MLflowLoggerCallback):  # type: ignore[misc]
        """Tune's logger, whose tags are those of the trial's stage."""

        tool = "mlflow"

        def log_trial_start(self, trial: Any) -> None:
            self.tags = {"study": study, "stage": trial.config["stage"]}
            super().log_trial_start(trial)
            self._open[trial] = self._trial_runs[trial]

        def log_trial_end(self, trial: Any, failed: bool = False) -> None:
            self._open.pop(trial, None)
            super().log_trial_end(trial, failed)

        def setup(self, *args: Any, **given: Any) -> None:
            self._open: dict[Any, str] = {}  # trial -> its run
            super().setup(*args, **given)

        def cut_off(self) -> None:
            for run in self._open.values():
                self.mlflow_util.end_run(run_id=run, status="KILLED")

    try:
        return ByStage(experiment_name=study)
    except (ImportError, RuntimeError):
        raise UserError("--log mlflow needs the package mlflow: pip install 'kdtune[mlflow]'") from None


def _wandb(folder: Folder, study: str) -> tune.Callback:
    import os

    from ray.air.integrations.wandb import WandbLoggerCallback

    # Not in the trial's folder, which Tune copies to the storage before the processes that write runs have ended.
    kept = Path(os.environ.get("WANDB_DIR") or folder.local or _elsewhere("wandb", folder))  # below it, in `wandb`

    class ByStage(Guarded, WandbLoggerCallback):  # type: ignore[misc]
        """Tune's logger: its group is the trial's stage, and it tells of runs that were not written."""

        tool = "wandb"

        def cut_off(self) -> None:
            for trial in self._trial_logging_actors:  # waited for, half an hour long, until they are told of the end
                self._signal_logging_actor_stop(trial)

        def log_trial_start(self, trial: Any) -> None:
            self.group = f"{study}/{trial.config['stage']}"
            super().log_trial_start(trial)

        def _cleanup_logging_actor(self, trial: Any) -> None:
            wrong = _wrong(self._trial_logging_futures[trial])
            if wrong is not None:
                _log.warning("--log wandb: %s: %s; what was written is in %s", trial, wrong, kept / "wandb")
            super()._cleanup_logging_actor(trial)

    try:
        kept.mkdir(parents=True, exist_ok=True)
        made = ByStage(project=os.environ.get("WANDB_PROJECT", "kdtune"), group=study, dir=str(kept))
        made.setup()  # says now, not in the middle of the stage, that there is no key
    except RuntimeError:
        raise UserError("--log wandb needs the package wandb: pip install 'kdtune[wandb]'") from None
    except ValueError as error:
        raise UserError(f"--log wandb: {str(error).splitlines()[0]}; or set WANDB_MODE=offline") from None
    return made


def _wrong(writing: ray.ObjectRef) -> str | None:
    """Why a process did not write its run to the end, in one line; none where it did."""
    if not ray.wait([writing], timeout=0)[0]:
        return "its upload has not ended, and is waited for no longer"
    try:
        ray.get(writing)
    except ray.exceptions.RayError as error:
        reason = str(getattr(error, "cause", None) or error).strip()
        return f"its run was not written: {reason.splitlines()[0]}"
    return None
