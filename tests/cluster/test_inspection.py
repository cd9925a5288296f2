"""The data of a study: nodes must agree, and with the trials on record."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdtune.base import Split, UserError
from kdtune.cluster.inspection import Answer, look, settle
from kdtune.datasets.synth import write_synthetic
from kdtune.loading.content import Content
from kdtune.records.journal import follow
from kdtune.records.storage import Record, Storage
from kdtune.records.trial_record import Planned, new_record
from kdtune.study.trial_config import TrialConfig
from kdtune.training.site import Part, Site, load_split, part

Images = Sequence[tuple[str, str]]
GOOD: Images = (("a", "11"), ("b", "22"))
BAD: Images = (("a", "11"), ("b", "33"))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"), "s")


def holding(images: Images) -> Content:
    return Content(hashlib.sha256(repr(images).encode()).hexdigest(), tuple(images))


def answer(config: TrialConfig, node: str, train: Images = GOOD, val: Images = GOOD) -> Answer:
    """What a node with these images would say."""
    splits: dict[Split, Images] = {"train": train, "val": val}
    return Answer(node, {part(config.dataset, s): holding(i) for s, i in splits.items()})


def record(config: TrialConfig, step: int | None) -> dict[str, Record]:
    """The journal of one trial, evaluated at a step or not yet."""
    found = new_record(Planned("s", "student", "base", config))
    found["row"]["step"] = step
    return {found["row"]["trial_id"]: found}


def noted(storage: Storage) -> dict[tuple[str, str], tuple[str, int]]:
    """Dataset's name and split -> the node that noted it, number of images."""
    return {
        (json.loads(dataset)["name"], split): (entry["node"], entry["images"])
        for dataset, splits in storage.data().items()
        for split, entry in splits.items()
    }


def test_equal_nodes_are_noted_once(storage: Storage, tiny: TrialConfig) -> None:
    keys = settle(storage, {}, [answer(tiny, "one"), answer(tiny, "two")])
    assert set(keys) == {part(tiny.dataset, "train"), part(tiny.dataset, "val")}
    assert noted(storage) == {("demo", "train"): ("one", 2), ("demo", "val"): ("one", 2)}
    before = storage.data()
    assert settle(storage, {}, [answer(tiny, "two")]) == keys
    assert storage.data() == before


def test_other_nodes_than_most_are_named_with_what_differs(storage: Storage, tiny: TrialConfig) -> None:
    answers = [
        answer(tiny, "one", val=BAD),
        answer(tiny, "two"),
        answer(tiny, "three"),
        Answer("four", fault="camvid: no folder"),
        Answer("five", fault="camvid: no folder"),
    ]
    with pytest.raises(UserError) as told:
        settle(storage, {}, answers)
    line = str(told.value)
    assert line.startswith(
        "3 of 5 nodes cannot train this study: nodes four, five: camvid: no folder; node one: demo, "
    )
    assert "val: image 'b' or its label differs (content key" in line
    assert "on node two)" in line
    assert "\n" not in line
    assert noted(storage) == {}


def test_of_two_nodes_the_one_with_the_data_of_the_trials_is_right(storage: Storage, tiny: TrialConfig) -> None:
    answers = [answer(tiny, "one", val=BAD), answer(tiny, "two")]
    settle(storage, {}, answers[1:])
    with pytest.raises(UserError, match="1 of 2 nodes cannot train this study: node one: demo, val: image 'b'"):
        settle(storage, record(tiny, 2), answers)
    with pytest.raises(UserError, match="1 of 2 nodes cannot train this study: node two: demo, val: image 'b'"):
        settle(storage, {}, answers)  # nothing trained yet: the first of equally many is


def test_other_data_than_the_trials_had_is_refused(storage: Storage, tiny: TrialConfig) -> None:
    settle(storage, {}, [answer(tiny, "one")])
    before = storage.data()
    with pytest.raises(UserError) as told:
        settle(storage, record(tiny, 2), [answer(tiny, "two", val=BAD)])
    line = str(told.value)
    old, new = (holding(images).short for images in (GOOD, BAD))
    assert line.startswith(f"dataset 'demo', val: its content key is {new}, but the trials in ")
    assert f"were trained on {old} (2 images, noted by one at 20" in line
    assert line.endswith("bring the same data, or give another --storage; results on different data cannot be compared")
    assert "\n" not in line
    assert storage.data() == before


def test_data_that_no_trial_was_evaluated_on_is_replaced(storage: Storage, tiny: TrialConfig) -> None:
    settle(storage, {}, [answer(tiny, "one")])
    elsewhere = tiny.replace({"dataset.seed": 9})
    keys = settle(storage, record(tiny, None) | record(elsewhere, 2), [answer(tiny, "two", val=BAD)])
    assert noted(storage) == {("demo", "train"): ("one", 2), ("demo", "val"): ("two", 2)}
    assert keys[part(tiny.dataset, "val")] == storage.data()[tiny.dataset.model_dump_json()]["val"]["key"]


def test_a_storage_without_notes_gets_them(storage: Storage, tiny: TrialConfig) -> None:
    settle(storage, record(tiny, 2), [answer(tiny, "one")])
    assert set(noted(storage)) == {("demo", "train"), ("demo", "val")}


def test_what_a_trial_writes_counts_as_used(storage: Storage, tiny: TrialConfig, one_thread: None) -> None:
    """The journal of a real trial, not one that this file makes up."""
    settle(storage, {}, [answer(tiny, "one")])
    next(follow(Planned("s", "student", "base", tiny), Site(), storage))
    with pytest.raises(UserError, match="cannot be compared"):
        settle(storage, storage.records(), [answer(tiny, "two", val=BAD)])


@pytest.fixture
def camvid(tmp_path: Path, tiny: TrialConfig, monkeypatch: pytest.MonkeyPatch) -> TrialConfig:
    """A trial on a small CamVid in ``tmp_path / "data"``."""
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    write_synthetic("camvid", tmp_path / "data" / "camvid", 2, size=(32, 48))
    return tiny.replace({"dataset": {"name": "camvid"}})


def change(folder: Path) -> None:
    path = next((folder / "camvid" / "valannot").iterdir())
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("mode", ["always", "fallback", "never"])
def test_a_trial_refuses_other_data_than_its_launch_found(
    camvid: TrialConfig, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "data")
    keys: dict[Part, str] = {p: c.key for p, c in look([camvid], Site(folder, pack=mode)).items()}  # type: ignore[arg-type]
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = Site(str(tmp_path / "moved"), pack=mode, keys=keys)  # type: ignore[arg-type]
    assert len(load_split(camvid, "val", moved)) == 2
    (tmp_path / "moved").rename(tmp_path / "other")
    change(tmp_path / "other")
    other = Site(str(tmp_path / "other"), pack=mode, keys=keys)  # type: ignore[arg-type]
    assert len(load_split(camvid, "train", other)) == 2
    with pytest.raises(
        UserError, match=r"^node \S+: dataset 'camvid', val .*other/camvid\) has the content key \w{12},"
    ):
        load_split(camvid, "val", other)
    gone = Site(str(tmp_path / "gone"), pack=mode, keys=keys)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^node \S+: camvid: no folder"):
        load_split(camvid, "val", gone)


def test_a_node_may_have_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for own_root in (False, True):
        monkeypatch.delenv("KDTUNE_DATA_ROOT", raising=False)
        assert Site("launcher", own_root=own_root).root == "launcher"
        monkeypatch.setenv("KDTUNE_DATA_ROOT", str(tmp_path))
        assert Site("launcher", own_root=own_root).root == (str(tmp_path) if own_root else "launcher")


@pytest.mark.parametrize(("split", "name"), [("train", "training"), ("val", "validation")])
def test_a_split_of_which_all_labels_are_void(split: Split, name: str, tiny: TrialConfig, tmp_path: Path) -> None:
    write_synthetic("camvid", tmp_path / "camvid", 2, size=(32, 48))
    config = tiny.replace({"dataset": {"name": "camvid"}})
    for sample in config.dataset.samples(split, tmp_path / "camvid"):
        Image.fromarray(np.full((32, 48), 11, np.uint8)).save(sample.files[1])
    with pytest.raises(UserError, match=f"'camvid': all labels of its 2 {name} images are void"):
        look([config], Site(str(tmp_path), pack="never"))
