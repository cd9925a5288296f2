"""What a trial prints, and how it fails, can be read later: ``kdtune logs STUDY --trial ID``."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import Tensor

from kdtune.base import LossTerm, SegOutput, UserError
from kdtune.cli import main
from kdtune.records.journal import follow
from kdtune.records.storage import Storage
from kdtune.records.trial_log import LONGEST, Output, trial_lines
from kdtune.records.trial_record import Planned
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Site

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = [0, 10**9]  # done; after which the talkative term fails


class Talkative(LossTerm):
    """Prints at every step, as networks of other packages do, and fails at one."""

    def __call__(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        STEPS[0] += 1
        print(f"step {STEPS[0]} of the network")
        print(f"warning {STEPS[0]}", file=sys.stderr)
        if STEPS[0] == STEPS[1]:
            raise RuntimeError("no more to say")
        return student.logits.square().mean()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path), "s")


@pytest.fixture
def talkative(tiny: TrialConfig) -> Planned:
    config = tiny.model_copy(update={"losses": {**tiny.losses, "talk": Talkative(weight=0.1)}})
    return Planned("s", "student", "base", config)


def logs(storage: Storage, *words: str) -> str:
    done = CliRunner().invoke(main, ["logs", "s", "--storage", storage.root, *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_each_attempt_printed_and_the_traceback(
    storage: Storage, talkative: Planned, capsys: pytest.CaptureFixture[str]
) -> None:
    STEPS[:] = [0, 5]
    *_, record = follow(talkative, Site(), storage)
    print("of somebody else")
    assert record["row"]["status"] == "failed"
    told = logs(storage, "--trial", talkative.trial_id)
    STEPS[:] = [4, 10**9]
    *_, record = follow(talkative, Site(), storage)
    assert told.startswith("attempt 1 printed:\nstep 1 of the network\n")
    assert all(f"step {i} of the network" in told and f"warning {i}" in told for i in range(1, 6))
    assert "of somebody else" not in told
    end = told[told.index(f"{talkative.trial_id}, attempt 1: failed at step 4: RuntimeError: no more to say (") :]
    assert "Traceback (most recent call last):" in end
    assert end.endswith("RuntimeError: no more to say\n")
    assert "step 5 of the network" in capsys.readouterr().out  # it is passed on
    again = logs(storage, "--trial", talkative.trial_id)
    assert "attempt 1 printed:" in again
    assert "attempt 2 printed:\nstep 5 of the network" in again
    assert again.endswith(f"{talkative.trial_id}, attempt 2: completed at step 6\n")


def test_a_trial_that_is_silent_has_no_file(storage: Storage, tiny: TrialConfig) -> None:
    planned = Planned("s", "student", "base", tiny)
    list(follow(planned, Site(), storage))
    assert not (storage.folder / "logs").names()
    assert [*trial_lines(storage, planned.trial_id)] == [f"{planned.trial_id}, attempt 1: completed at step 6"]


def test_an_unknown_trial_is_one_line(storage: Storage, tiny: TrialConfig) -> None:
    planned = Planned("s", "student", "base", tiny)
    list(follow(planned, Site(), storage))
    with pytest.raises(UserError, match="no trial 'student-x-s0'"):
        list(trial_lines(storage, "student-x-s0"))
    done = CliRunner().invoke(main, ["logs", "s", "--storage", storage.root, "--trial", "x", "-f"])
    assert done.exit_code == 2


def test_the_last_of_a_long_output_is_kept() -> None:
    output = Output()
    for i in range(60_000):
        output.add(f"line {i}\n")
    text = output.text()
    assert len(text) == LONGEST
    assert text.endswith("line 59999\n")
    assert not output.news


class Gone:
    """A terminal that is no more."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    flush = write  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_a_terminal_that_is_gone_ends_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())
    output = Output()

    def items() -> object:
        for i in range(3):
            print(i)
            yield i

    assert [*output.during(items())] == [0, 1, 2]  # type: ignore[arg-type]
    assert output.text() == "0\n1\n2\n"
