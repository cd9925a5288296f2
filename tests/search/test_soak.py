"""Repetition for its own sake, left out of the default run: ``pytest -m soak``."""

import time
from pathlib import Path
from random import Random

import pytest

from tests.support.launching import (
    AT_ONCE,
    TRIALS,
    end,
    journals,
    kdtune,
    running,
    same_as,
    start,
    until,
    write_study,
)

pytestmark = [pytest.mark.soak, pytest.mark.slow]
KILLS = 3  # of the driver in each of the seven stages
LONG = AT_ONCE.replace("num_steps: 6, eval_every: 2", "num_steps: 40, eval_every: 4")


@pytest.mark.timeout(1500)
def test_kill_of_the_driver_in_every_stage(tmp_path: Path) -> None:
    """Twenty-one times, at random moments, while a trial of the stage is under way; nothing finished runs twice."""
    dice = Random(0)
    whole = tmp_path / "undisturbed"
    whole.mkdir()
    study = write_study(tmp_path, LONG.replace("num_steps: 8", "num_steps: 40"))
    args = ("launch", study, "--scheduler", "none", "--storage")
    wanted: list[str] = []
    log: list[dict[str, int]] = []  # of each kill: the trials that it hit, each with its attempt
    for stage in TRIALS:
        wanted += ["--stage", stage]
        log += _killed(stage, tmp_path, dice, *args, tmp_path, *wanted)
    assert len(log) == KILLS * len(TRIALS) == 21
    finished_at = {n: e["row"]["finished_at"] for n, e in journals(tmp_path).items() if e["row"]["finished_at"]}
    done = kdtune(*args, tmp_path)
    assert done.returncode == 0, done.stderr
    done = kdtune(*args, whole)
    assert done.returncode == 0, done.stderr
    same_as(whole, tmp_path)
    now = journals(tmp_path)
    assert all(now[name]["attempt"] > attempt for hit in log for name, attempt in hit.items())  # each was gone on with
    assert all(now[name]["row"]["finished_at"] == at for name, at in finished_at.items())


def _killed(stage: str, storage: Path, dice: Random, *launch: str | Path) -> list[dict[str, int]]:
    """Launches and kills until three kills have met a live trial of the stage."""
    log: list[dict[str, int]] = []
    for _ in range(2 * KILLS):  # a trial may end just before the blow
        before = running(storage)

        def begun(before: dict[str, int] = before) -> dict[str, int]:
            found = running(storage).items()
            return {name: at for name, at in found if name.startswith(f"{stage}-") and before.get(name) != at}

        process = start(*launch)
        try:
            until(lambda begun=begun: bool(begun()), every=0.05)
            time.sleep(0.5 * dice.random())
            process.kill()
            process.wait()
            log += [begun()] if begun() else []
        finally:
            end(process)
        if len(log) == KILLS:
            return log
    pytest.fail(f"only {len(log)} kills met a live trial of stage {stage}")
