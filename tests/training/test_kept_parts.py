"""What terms make of the teacher before training is made once for a seed, and is the same to the last bit."""

from pathlib import Path

import pytest

from kdtune.study.trial_config import TrialConfig
from kdtune.training import loop
from kdtune.training.site import Site
from kdtune.training.teacher_store import store_folder
from tests.support.tiny import config, teacher
from tests.training.test_teacher_store import STEPS, finished, stored

BATCHES = 3
KA = {"weight": 1.0, "batches": BATCHES}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    """A trial of knowledge adaptation, with a cache of its own."""
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    return config({"teacher": teacher(tmp_path), "losses.ka_adaptation": KA})


def parts() -> list[Path]:
    return sorted(store_folder().glob("*/parts/*.part"))


def test_made_once_and_found_by_every_trial_of_the_seed(encoded: TrialConfig) -> None:
    """Its steps of the teacher are counted as read."""
    alone, live = finished(encoded, Site())
    assert (live.asked.run, live.asked.read) == (BATCHES + STEPS, 0)
    assert not parts()
    first, made = finished(encoded, stored())
    assert (made.asked.run, made.asked.read) == (BATCHES + STEPS, 0)
    second, found = finished(encoded, stored())
    assert (found.asked.run, found.asked.read) == (STEPS, BATCHES)
    assert found.asked.seconds_used > 0
    assert alone == first == second
    assert len(parts()) == 1
    finished(encoded.replace({"seed": 1}), stored())
    assert len(parts()) == 2


def test_a_shorter_training_has_as_many_batches_before_it(
    encoded: TrialConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it keeps is what a longer one would have made, so that the longer one may read it; the log says how far."""
    monkeypatch.setattr(loop, "TOLD_EVERY", -1.0)
    short = encoded.replace({"recipe.num_steps": 1, "recipe.eval_every": 1})
    with caplog.at_level("INFO", "kdtune.training"):
        _, made = finished(short, stored())
    assert made.asked.run == BATCHES + 1
    told = [f"before training, ka_adaptation has taken {step} batches" for step in range(BATCHES)]
    assert [record.getMessage() for record in caplog.records if record.name == loop.__name__] == told
    longer, found = finished(encoded, stored())
    assert found.asked.read >= BATCHES
    assert longer == finished(encoded, Site())[0]


def test_shared_by_the_terms_that_make_the_same(encoded: TrialConfig) -> None:
    """L_aff has the encoder of L_adapt; an encoder that is trained for longer is another."""
    both = encoded.replace({"losses.ka_affinity": KA})
    finished(encoded, stored())
    found, state = finished(both, stored())
    assert (state.asked.run, state.asked.read) == (STEPS, 2 * BATCHES)
    assert found == finished(both, Site())[0]
    finished(encoded.replace({"losses.ka_adaptation.batches": BATCHES + 1}), stored())
    assert len(parts()) == 2


def test_the_reader_of_positions(encoded: TrialConfig) -> None:
    other = encoded.replace({"losses": {"ce": {"weight": 1.0}, "idd_position": {"weight": 1.0, "batches": BATCHES}}})
    assert finished(other, stored())[0] == finished(other, stored())[0] == finished(other, Site())[0]
    assert len(parts()) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_part_is_made_again(encoded: TrialConfig, damage: str) -> None:
    expected, _ = finished(encoded, stored())
    (path,) = parts()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes({"truncated": content[:-9], "flipped": content, "empty": b""}[damage])
    found, state = finished(encoded, stored())
    assert found == expected
    assert state.asked.run == BATCHES + STEPS
    assert finished(encoded, stored())[1].asked.read == BATCHES


def test_without_room_it_is_made_by_each(encoded: TrialConfig, caplog: pytest.LogCaptureFixture) -> None:
    expected, _ = finished(encoded, stored(limit=10.0))
    assert not parts()
    assert finished(encoded, stored(limit=10.0))[0] == expected
    store_folder().rename(store_folder().with_name("gone"))
    store_folder().write_text("")  # a file lies where the folder would be
    assert finished(encoded, stored())[0] == expected
    assert "is not kept" in caplog.text
