"""The sharp edges of Tune, each shown to be avoided; on a real Ray where Ray takes part."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdtune.base import Interrupted
from kdtune.cluster import session
from kdtune.cluster.auth import MODE, require_token
from kdtune.cluster.halt import Halt, interruptible, promptly
from kdtune.cluster.share import PROCESSOR_TRIALS, Share, share
from kdtune.search.early_stopping import Known, Median, Rungs
from kdtune.search.stage_context import SCORE, WORST
from kdtune.study.schedulers import Halving, stands
from kdtune.study.spec import StudySpec
from kdtune.study.stage import shuffled
from tests.support.alone import alone
from tests.support.launching import STEPS, journals, kdtune, slow_to_stop, write_study


def record(trial: str, scores: dict[int, float | None]) -> dict[str, Any]:
    """A journal with a history."""
    history = [{"step": step, "miou": miou} for step, miou in scores.items()]
    return {"row": {"trial_id": trial, "status": "completed"}, "history": history}


def judge(rungs: Rungs, trial: str, step: int, score: float) -> str:
    """What ASHA decides on one report, as Tune asks it."""
    ray_trial = Known(f"ray-{trial}")
    if step == 30:
        rungs.on_trial_add(None, ray_trial)
    return rungs.on_trial_result(
        None,
        ray_trial,
        {"trial": trial, "step": step, SCORE: score, "status": "running" if step < STEPS else "completed"},
    )


def halving() -> Halving:
    return Halving(grace=1 / 3, reduction_factor=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_trains_nothing_is_interrupted_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    halt = Halt()
    with interruptible(halt):
        with pytest.raises(Interrupted, match="nothing finished is lost"), promptly():
            os.kill(os.getpid(), number)
        assert halt.reason is None
        os.kill(os.getpid(), number)  # from here on the launch ends in order again
        assert halt.reason == "interrupted"
    assert signal.getsignal(number) == before


def test_rungs_of_earlier_launches_count() -> None:
    past = {name: record(name, {30: score, 60: score + 5}) for name, score in (("a", 40.0), ("b", 50.0))}
    assert judge(Rungs(halving(), STEPS, {}), "c", 30, 30.0) == "CONTINUE"  # the first at a rung always goes on
    assert judge(Rungs(halving(), STEPS, past), "c", 30, 30.0) == "STOP"
    assert judge(Rungs(halving(), STEPS, past), "c", 30, 60.0) == "CONTINUE"


def test_a_trial_that_goes_on_is_not_judged_twice_at_a_rung() -> None:
    """It has passed rung 30 in an earlier launch; its value at 60 must not be recorded as one at 30."""
    rungs = Rungs(halving(), STEPS, {"a": record("a", {30: 40.0})})
    assert judge(rungs, "a", 60, 45.0) == "CONTINUE"
    assert judge(rungs, "b", 30, 41.0) == "CONTINUE"  # better than a's 40 at 30, worse than its 45 at 60
    assert judge(rungs, "c", 30, 39.0) == "STOP"


def test_a_diverged_trial_is_stopped_by_its_rung() -> None:
    past = {"a": record("a", {30: 40.0}), "b": record("b", {30: None})}
    rungs = Rungs(halving(), STEPS, past)
    assert judge(rungs, "c", 30, WORST) == "STOP"  # a NaN would have gone on: nan < cutoff is false


def test_the_median_rule_counts_earlier_launches() -> None:
    past = {name: record(name, {30: score, 60: score}) for name, score in (("a", 40.0), ("b", 50.0), ("c", 60.0))}
    report = {"trial": "d", "step": 60, SCORE: 45.0, "status": "running"}
    assert Median(30, {}).on_trial_result(None, Known("ray-d"), report) == "CONTINUE"  # nothing to compare with
    assert Median(30, past).on_trial_result(None, Known("ray-d"), report) == "STOP"  # the median is 50
    assert Median(30, past).on_trial_result(None, Known("ray-d"), report | {SCORE: 55.0}) == "CONTINUE"
    assert Median(30, past).on_trial_result(None, Known("ray-d"), report | {"status": "completed"}) == "CONTINUE"


def test_a_finished_trial_is_never_stopped() -> None:
    rungs = Rungs(halving(), STEPS, {name: record(name, {30: 90.0, 60: 90.0}) for name in "ab"})
    assert judge(rungs, "c", STEPS, 1.0) == "CONTINUE"


def test_worst_first_stops_nothing_and_shuffled_does() -> None:
    """Why the grid is shuffled before ASHA sees it."""

    def stopped(scores: list[float]) -> int:
        rungs = Rungs(halving(), STEPS, {})
        return sum(judge(rungs, str(score), 30, score) == "STOP" for score in scores)

    ascending = [float(score) for score in range(27)]
    assert stopped(ascending) == 0
    assert stopped(shuffled(ascending, 0, "student")) > 8


def test_the_order_of_a_grid_comes_from_the_study_seed() -> None:
    items = list(range(9))
    assert shuffled(items, 0, "student") == shuffled(items, 0, "student")
    assert shuffled(items, 0, "student") != shuffled(items, 1, "student")
    assert sorted(shuffled(items, 0, "student")) == items


def test_what_is_final_depends_on_the_scheduler() -> None:
    final = {
        status: (stands(status, "asha"), stands(status, "none"))
        for status in ("completed", "diverged", "stopped", "failed", "running")
    }
    assert final == {
        "completed": (True, True),
        "diverged": (True, True),
        "stopped": (True, False),
        "failed": (False, False),
        "running": (False, False),
    }


def test_threads_are_shared_out() -> None:
    assert [Share(cpus, 0, 1).threads for cpus in (0.5, 1, 2, 7)] == [1, 1, 2, 7]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a test starts asks for Ray's token from the time that it imports Ray."""
    monkeypatch.setenv(MODE, "token")  # and is put back: Ray is imported here, too
    require_token()


def with_ray(body: Callable[..., Any], *arguments: Any) -> Any:
    """With Ray in this process, as a launch starts it."""
    with session.cluster(None, "test", Halt()):
        return body(*arguments)


def stopped_slowly(folder: Path) -> tuple[int, list[int]]:
    """The errors, and the last step of each trial."""
    from ray import tune

    tuner = tune.Tuner(
        tune.with_resources(slow_to_stop, {"cpu": 2}),
        param_space={"x": tune.grid_search([4, 1, 2, 3])},
        tune_config=tune.TuneConfig(
            scheduler=Rungs(halving(), STEPS, {}),
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    found = tuner.fit()
    return found.num_errors, sorted(result.metrics["step"] for result in found)


@pytest.mark.slow
@pytest.mark.usefixtures("token")
def test_no_trial_is_lost_after_a_slow_stop(tmp_path: Path) -> None:
    """With Tune's default the next trial of the actor becomes an error without ever running."""
    assert alone(with_ray, stopped_slowly, tmp_path) == (0, [30, 30, 60, 90])


def shares() -> tuple[int, list[Share], list[float]]:
    """The cores that Ray has; what each of 1 and 100 trials gets, and of 100 one after the other.

    And the GPUs that a study asks for that needs one: of a Ray started here, and of a cluster that may grow.
    """
    import ray

    cores = int(ray.cluster_resources()["CPU"])
    spec = StudySpec.model_validate(
        {
            "name": "s",
            "base": {
                "dataset": {"name": "demo"},
                "student": {"name": "pspnet", "backbone": "resnet18"},
                "losses": {"ce": {"weight": 1}},
                "recipe": {"lr": 0.1, "weight_decay": 0, "num_steps": 1},
            },
            "stages": [{"name": "student"}],
        }
    )
    single = spec.model_copy(update={"max_concurrent": 1})
    found = [share(each, spec.stages[0], n) for each, n in ((spec, 1), (spec, 100), (single, 100))]
    needy = spec.model_copy(update={"max_concurrent": 2, "needs_gpu": True})
    return cores, found, [share(needy, spec.stages[0], 9, joined=joined).gpus for joined in (False, True)]


@pytest.mark.slow
@pytest.mark.usefixtures("token")
def test_share_of_a_processor() -> None:
    cores, (one, many, in_turn), gpus = alone(with_ray, shares)
    assert one == Share(cores, 0, 1)
    assert many.at_once == min(cores, PROCESSOR_TRIALS)
    assert many.at_once * many.cpus <= cores
    assert in_turn == Share(cores, 0, 1)
    assert gpus == [0, 1]


def asking_at_the_end() -> tuple[set[str], set[str]]:
    """A launch's threads: those that ask Ray while it runs, those still there when it ends; a question takes 1 s."""
    import ray

    from kdtune.cluster import meters

    answer, end = ray.nodes, ray.shutdown
    ends: list[set[str]] = []

    def threads() -> set[str]:
        return {each.name for each in threading.enumerate() if each.name.startswith("kdtune-")}

    def slowly() -> Any:
        time.sleep(1)
        return answer()

    def shutdown() -> None:
        ends.append(threads())
        end()

    session.ASKED_EVERY = meters.LOOK_EVERY = 0.01
    ray.nodes, ray.shutdown = slowly, shutdown
    with session.cluster(None, "test", Halt()), meters.Meters("DEU", lambda totals: None, print):
        time.sleep(3)
        meanwhile = threads()
    return meanwhile, ends[0]


@pytest.mark.slow
@pytest.mark.usefixtures("token")
def test_nobody_asks_ray_once_it_ends() -> None:
    """Ray ends the process, with any status or a crash, if a thread asks it something after its end."""
    meanwhile, left = alone(asking_at_the_end)
    assert meanwhile == {"kdtune-watchdog", "kdtune-asks", "kdtune-meters"}
    assert left == set()


@pytest.mark.slow
def test_asha_stops_trials_and_a_stopped_one_is_never_the_optimum(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    args = ("--stage", "student", "--storage", tmp_path)
    grid = "recipe.lr=[]"
    assert kdtune("launch", study, *args, "--set", grid).returncode == 2  # swept: the value would not be used
    done = kdtune("launch", study, *args, "--scheduler", "asha", "--max-concurrent", "1")
    assert done.returncode == 0, done.stderr
    rows = {name: entry["row"] for name, entry in journals(tmp_path).items()}
    stopped = {name for name, row in rows.items() if row["status"] == "stopped"}
    assert stopped
    assert all(rows[name]["step"] < rows[name]["steps_total"] for name in stopped)
    shown = kdtune("results", "tiny", "--storage", tmp_path, "--table", "grid")
    assert shown.stdout.count("@ ") >= len(stopped)
    optimal = kdtune("results", "tiny", "--storage", tmp_path, "--format", "json")
    assert not any(name in optimal.stdout for name in stopped)
    # without early stopping the stopped ones go on from where they were
    done = kdtune("launch", study, *args, "--scheduler", "none")
    assert done.returncode == 0, done.stderr
    after = {name: entry for name, entry in journals(tmp_path).items()}
    assert {entry["row"]["status"] for entry in after.values()} == {"completed"}
    assert all([e["step"] for e in entry["history"]] == [2, 4, 6] for entry in after.values())
