"""The teacher's outputs, kept and shared: the same bits live, written and read, whatever happens to the store."""

import errno
import hashlib
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from kdtune.base import Loss, LossTerm, SegNet, SegOutput, UserError
from kdtune.study.trial_config import TrialConfig
from kdtune.training import stored_teaching, teacher_key, teacher_store, teaching
from kdtune.training.loop import Run
from kdtune.training.site import Site, TeacherStore
from kdtune.training.teacher_store import Block, Store, default_limit, store_folder, write
from kdtune.training.trial import run
from kdtune.training.weights import weights_bytes
from tests.support.tiny import config, teacher, through_a_file

TERMS = {"losses.pi": {"weight": 0.5}, "losses.pa": {"weight": 0.5}, "losses.ifv": {"weight": 1.0}}
STEPS = 6  # of the tiny trial
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Blocks of two steps, in a cache of this test's own."""
    monkeypatch.setattr(teacher_store, "STEPS", 2)
    monkeypatch.setattr(stored_teaching, "STEPS", 2)
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def distilled(tmp_path: Path) -> TrialConfig:
    """A trial with a term that reads logits and two that read digests."""
    return config({"teacher": teacher(tmp_path), **TERMS})


def stored(limit: float | None = None, others: Any = ()) -> Site:
    return Site(store=TeacherStore(limit, others))


def finished(trial: TrialConfig, site: Site, saved: Any = None) -> tuple[str, Run]:
    """The digest of a trial's weights, and what it ended with."""
    *_, (_, state) = run(trial, site, saved)
    return digest(state), state


def digest(state: Run) -> str:
    return hashlib.sha256(weights_bytes(state.student)).hexdigest()


def blocks() -> list[Path]:
    return sorted(store_folder().glob("*/*/*.bin"))


def test_live_written_and_read_are_the_same_bits(distilled: TrialConfig) -> None:
    """And who runs what is counted."""
    live, alone = finished(distilled, Site())
    assert (alone.asked.run, alone.asked.read) == (STEPS, 0)
    cold, first = finished(distilled, stored())
    assert (first.asked.run, first.asked.read) == (STEPS, 0)
    warm, second = finished(distilled, stored())
    assert (second.asked.run, second.asked.read) == (0, STEPS)
    assert live == cold == warm
    assert len(blocks()) == 3 * 3  # three maps of three blocks


def test_the_teacher_is_not_even_loaded_where_all_is_there(
    distilled: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another learning rate and another weight ask the same teacher."""
    finished(distilled, stored())
    monkeypatch.setattr("kdtune.training.trial.frozen_teacher", None)
    other = distilled.replace({"recipe.lr": 0.01, "losses.pa.weight": 3.0})
    assert finished(other, stored())[1].asked.read == STEPS


def test_digests_that_another_trial_needs_are_made_with_the_first(distilled: TrialConfig) -> None:
    """So that a later stage with further terms runs no teacher."""
    first = distilled.replace({"losses": {"ce": {"weight": 1.0}, "pi": {"weight": 0.5}}})
    later = [distilled.losses["pa"], distilled.losses["ifv"]]
    finished(first, stored(others=later))
    warm, state = finished(distilled, stored())
    assert state.asked.run == 0
    assert warm == finished(distilled, Site())[0]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"recipe.batch_size": 4},
        {"recipe.scale_max": 1.0},
        {"teacher.model.preprocessing": {"order": "bgr"}},
        {"dataset": {"name": "demo", "size": [32, 48], "num_train": 9, "num_val": 4}},
    ],
)
def test_another_batch_or_teacher_is_another_key(distilled: TrialConfig, change: dict[str, Any]) -> None:
    """What would give other outputs never reads these."""
    finished(distilled, stored())
    other = distilled.replace(change)
    found, state = finished(other, stored())
    assert state.asked.read == 0
    assert found == finished(other, Site())[0]


def test_other_weights_are_another_key(distilled: TrialConfig, tmp_path: Path) -> None:
    """Known by their content, wherever they lie."""
    finished(distilled, stored())
    content = (tmp_path / "teacher.safetensors").read_bytes()
    (tmp_path / "copy.safetensors").write_bytes(content)
    same = distilled.replace({"teacher.checkpoint": str(tmp_path / "copy.safetensors")})
    assert finished(same, stored())[1].asked.run == 0


class Counting(LossTerm):
    """Takes more batches than the trial has steps before it trains, and reads nothing of the teacher."""

    symbol: ClassVar[str] = "L_N"
    source: ClassVar[str] = "these tests"
    needs_teacher: ClassVar[bool] = False

    def build(self, student: SegNet, teacher: SegNet | None) -> Loss:
        return CountingLoss()


class CountingLoss(Loss):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def before_training(self, batches: Iterator[tuple[SegOutput | None, Tensor]]) -> None:
        for _ in itertools.islice(batches, STEPS + 3):
            self.get_buffer("seen").add_(1)

    def forward(self, student: SegOutput, teacher: SegOutput | None, target: Tensor) -> Tensor:
        return 0.0 * student.logits.mean()


def test_more_batches_than_steps_before_training(distilled: TrialConfig) -> None:
    which = distilled.model_copy(update={"losses": {**distilled.losses, "counting": Counting(weight=1.0)}})
    weights, state = finished(which, stored())
    assert state.losses["counting"].get_buffer("seen") == STEPS + 3
    assert weights == finished(which, Site())[0]


def test_other_code_of_a_network_is_another_key(
    distilled: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of the user's own, and a package that is installed: its version counts."""
    module = tmp_path / "ownnet.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    made = []
    for number in ("1", "1", "2"):
        module.write_text(f"SCALE = {number}\n")
        teacher_key._code.cache_clear()
        external = {"name": "external", "builder": "ownnet:build", "taps": {"psp": "head"}}
        which = distilled.replace({"teacher": {"model": external, "checkpoint": distilled.teacher.checkpoint}})  # type: ignore[union-attr]
        made.append(teacher_key.key(which, Site(), torch.device("cpu")))
    assert made[0] == made[1] != made[2]
    assert teacher_key._code("torchvision.models")["torchvision"] == version("torchvision")


def test_a_longer_trial_goes_on_where_a_shorter_one_ended(distilled: TrialConfig) -> None:
    """The last block of the shorter one has a step too few for it."""
    short = distilled.replace({"recipe.num_steps": 3, "recipe.eval_every": 3})
    finished(short, stored())
    found, state = finished(distilled, stored())
    assert (state.asked.run, state.asked.read) == (4, 2)
    assert found == finished(distilled, Site())[0]
    assert finished(short, stored())[1].asked.read == 3


def test_a_resumed_trial_is_the_same_and_its_counts_go_on(distilled: TrialConfig) -> None:
    """From its state at step 4, with what the store has."""
    states = [through_a_file(state.state_dict()) for _, state in run(distilled, stored())]
    found, state = finished(distilled, stored(), states[1])
    assert (state.asked.run, state.asked.read) == (4, 2)
    assert found == finished(distilled, Site())[0]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not a block"])
def test_a_damaged_block_is_computed_again(
    distilled: TrialConfig, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A bit that has turned is found by the step's checksum."""
    expected, _ = finished(distilled, stored())
    path = next(path for path in blocks() if path.parent.name == "logits" and path.name == "1.bin")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-5] ^= 1
    path.write_bytes({"truncated": content[:-7], "flipped": content, "not a block": b"?"}[damage])
    found, state = finished(distilled, stored())
    assert found == expected
    assert state.asked.run >= 2
    assert ("damaged" in caplog.text) == (damage == "flipped")  # the others are no blocks at all
    assert finished(distilled, stored())[1].asked.run == 0


def test_a_full_disk_costs_time_and_nothing_else(
    distilled: TrialConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One note; the rest of the trial runs its teacher live."""
    expected, _ = finished(distilled, Site())

    def full(path: Path, *given: Any) -> None:
        if path.name == "1.bin":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *given)

    monkeypatch.setattr(stored_teaching, "write", full)
    found, state = finished(distilled, stored())
    assert found == expected
    assert state.asked.run == STEPS + 2  # those of the block that was lost, once more
    assert caplog.text.count("not kept") == 1


def test_without_room_the_prefix_stays(distilled: TrialConfig) -> None:
    """What is there is a beginning of the run, which is what stopped trials share."""
    expected, _ = finished(distilled, stored())
    size = sum(path.stat().st_size for path in blocks()) / 3
    other = distilled.replace({"seed": 2})
    finished(other, stored(limit=1.5 * size))  # the first key is not in use: it goes
    left = {path.name for path in blocks()}
    assert left == {"0.bin"}
    assert len({path.parent.parent for path in blocks()}) == 1
    assert finished(distilled, Site())[0] == expected


def test_who_starts_late_reads_what_a_stopped_trial_has_left(distilled: TrialConfig) -> None:
    """As under early stopping: the beginning is shared, the rest computed."""
    steps = run(distilled, stored())
    while next(steps)[0].step < 4:
        pass
    steps.close()
    found, state = finished(distilled.replace({"recipe.lr": 0.02}), stored())
    assert (state.asked.run, state.asked.read) == (2, 4)
    assert found == finished(distilled.replace({"recipe.lr": 0.02}), Site())[0]


def test_what_only_networks_of_another_stage_have_is_not_asked_for(distilled: TrialConfig) -> None:
    """A term of another stage reads a map that these networks lack."""

    class Elsewhere(type(distilled.losses["pa"])):  # type: ignore[misc]
        taps = frozenset({"nowhere"})

    _, state = finished(distilled, stored(others=[Elsewhere(weight=1.0)]))
    assert state.asked.run == STEPS


def test_what_a_killed_process_left_half_written_is_swept(distilled: TrialConfig) -> None:
    finished(distilled, stored())
    whole = next(path for path in blocks() if path.name == "1.bin")
    left = whole.with_name(".1.bin-0a1b2c3d")
    whole.rename(left)
    assert finished(distilled, stored())[1].asked.run == 2
    assert not left.exists()


def test_by_default_the_store_takes_no_more_than_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a disk of 100 GB of which 40 are free it may take 20, and what it holds counts as free."""
    usage = type("Usage", (), {"total": 100e9, "used": 60e9, "free": 40e9})
    monkeypatch.setattr(teacher_store.shutil, "disk_usage", lambda path: usage)
    assert default_limit(store_folder()) == 20e9
    store = Store("key")
    assert store.has_room(19e9)
    assert not store.has_room(21e9)


def test_a_key_in_use_is_not_given_up(tmp_path: Path) -> None:
    """Nor one of a process that is still there."""
    used, other = Store("used", limit=1.0), Store("other", limit=1.0)
    assert not other.has_room(10.0)
    assert used.folder.exists()
    used.close()
    assert not other.has_room(10.0)
    assert not used.folder.exists()


def test_a_cache_that_cannot_be_written_is_no_error(
    distilled: TrialConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file lies where the folder would be."""
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "teacher").write_text("")
    assert finished(distilled, stored())[0] == finished(distilled, Site())[0]
    assert "the teacher runs at each step" in caplog.text


def test_the_tap_logits_is_read_as_the_logits_are(distilled: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the one precision that leaves the teacher: here float16, as on a GPU."""
    monkeypatch.setattr(teaching, "half_precision", lambda recipe, device: True)
    on_logits = distilled.replace({"losses.fitnet": {"weight": 0.1, "tap": "logits"}, "losses.at": {"weight": 10}})
    on_logits = on_logits.replace({"losses.at.tap": "logits"})
    live, _ = finished(on_logits, Site())
    cold, first = finished(on_logits, stored())
    warm, second = finished(on_logits, stored())
    assert live == cold == warm
    assert (first.asked.run, second.asked.run, second.asked.read) == (STEPS, 0, STEPS)


def test_a_term_that_reads_whole_feature_maps_runs_live(distilled: TrialConfig) -> None:
    """They would be too large to keep; the largest is the stem's."""
    whole = distilled.replace({"losses.fitnet": {"weight": 0.1, "tap": "stem"}})
    _, state = finished(whole, stored())
    assert (state.asked.run, state.asked.read) == (STEPS, 0)
    assert not blocks()


def _run_and_stop(trial: TrialConfig, folder: str, told: Any) -> None:
    os.environ["KDTUNE_CACHE"] = folder
    stored_teaching.STEPS = teacher_store.STEPS = 2
    real = stored_teaching.Live.forward

    def forward(self: Any, batch: Any, taps: Any) -> Any:
        forward.calls += 1  # type: ignore[attr-defined]
        if forward.calls == 4:  # type: ignore[attr-defined]  # in the middle of the second block
            told.send("there")
            signal.pause()
        return real(self, batch, taps)

    forward.calls = 0  # type: ignore[attr-defined]
    stored_teaching.Live.forward = forward  # type: ignore[method-assign]
    finished(trial, stored())


@pytest.fixture
def claimant(distilled: TrialConfig, tmp_path: Path) -> Iterator[multiprocessing.Process]:
    """Another process, halfway through a block that it has claimed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_and_stop, args=(distilled, str(tmp_path / "cache"), theirs))
    process.start()
    assert ours.poll(60)
    yield process  # type: ignore[misc]
    process.kill()
    process.join()


def test_who_is_killed_within_a_block_leaves_its_claim(
    distilled: TrialConfig, claimant: multiprocessing.Process
) -> None:
    """``kill -9``: the lock ends with the process."""
    assert [path.name for path in blocks()] == ["0.bin"] * 3
    claimant.kill()
    claimant.join()
    found, state = finished(distilled, stored())
    assert (state.asked.run, state.asked.read) == (4, 2)
    assert found == finished(distilled, Site())[0]


def test_while_another_computes_a_block_the_next_one_is_computed(
    distilled: TrialConfig, claimant: multiprocessing.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where the other hangs, the teacher runs at each step of that block."""
    monkeypatch.setattr(teacher_store, "SILENT", 0.5)
    began = time.time()
    found, state = finished(distilled, stored())
    assert time.time() - began < 60
    assert (state.asked.run, state.asked.read) == (4, 2)  # block 0 read, 2 computed ahead, 1 live
    assert {path.name for path in blocks()} == {"0.bin", "2.bin"}
    assert found == finished(distilled, Site())[0]


def test_a_block_is_whole_or_none(tmp_path: Path) -> None:
    """A file that is shorter than its head says, or of another format, is not read."""
    import numpy as np

    path = tmp_path / "a" / "0.bin"
    maps = [np.arange(6, dtype=np.float16).reshape(2, 3) + i for i in range(2)]
    write(path, maps, 0.25)
    block = Block.read(path)
    assert block is not None
    assert (len(block), block.seconds) == (2, 0.25)
    assert np.array_equal(block.step(1), maps[1])  # type: ignore[arg-type]
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:-1])
    assert Block.read(path) is None


def test_logits_beyond_float16_are_refused_by_name(distilled: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipe runs in half precision; here the processor is told to."""
    import torch

    monkeypatch.setattr(teaching, "half_precision", lambda recipe, device: True)
    monkeypatch.setattr("kdtune.training.loop.CHECK_EVERY", 2)
    real = teaching.Live._forward.func  # type: ignore[attr-defined]

    class Loud:
        def __init__(self, network: Any) -> None:
            self._network = network

        def __call__(self, image: torch.Tensor, taps: Any) -> Any:
            found = self._network(image, taps)
            found.logits = found.logits * 1e6
            return found

    assert finished(distilled, Site())[1].step == STEPS  # float16 holds what it says
    monkeypatch.setattr(teaching.Live, "_forward", property(lambda self: Loud(real(self))))
    for site in (Site(), stored(), stored()):  # live, written, read
        with pytest.raises(UserError, match=r"teacher .*: its logits go beyond 65504.*recipe\.bf16: false"):
            finished(distilled, site)
