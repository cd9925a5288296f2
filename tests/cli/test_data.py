"""``kdtune data``: exit statuses, and what goes to which stream; the benches of loading."""

import socket
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from kdtune.cli import main
from kdtune.datasets.synth import write_synthetic
from kdtune.datasets.voc import Voc
from kdtune.loading.pack import open_split


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDTUNE_DATA_ROOT", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")  # that standard error is no terminal counts for more


def kdtune(*words: str) -> Result:
    return CliRunner().invoke(main, ["data", *words], prog_name="kdtune")


def refused(*words: str) -> str:
    result = kdtune(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("kdtune: ").rstrip("\n")


@pytest.fixture
def root() -> str:
    assert kdtune("synth", "voc", "--root", "voc", "--images", "2").exit_code == 0
    return "voc"


def test_check_of_a_sound_dataset(root: str) -> None:
    result = kdtune("check", "voc", "--root", root)
    assert result.exit_code == 0
    assert result.stdout.startswith("voc in voc: 21 classes\ntrain: 2 images, published 1464; pixels ")
    assert result.stderr.splitlines() == [
        f"note: 2 images for {split}, but published are {count}: fine for a part of it; --strict refuses it"
        for split, count in (("train", 1464), ("val", 1449))
    ]
    assert "\x1b" not in result.output


def test_check_of_a_field(root: str) -> None:
    assert "published 10582" in kdtune("check", "voc", "--root", root, "--set", "split=train_aug").stdout
    line = refused("check", "voc", "--root", root, "--set", "splitt=train_aug")
    assert line == "--set splitt: unknown key (did you mean 'split'?); allowed: name, split"
    assert refused("check", "voc", "--root", root, "--set", "split=val").startswith("--set split: input should be")
    assert refused("check", "voc", "--root", root, "--set", "name=camvid").startswith("--set name: input should be")


def test_check_names_every_fault(root: str) -> None:
    first, second = sorted(Path(root).rglob("JPEGImages/2008*.jpg"))
    first.write_bytes(first.read_bytes()[:500])
    second.unlink()
    result = kdtune("check", "voc", "--root", root)
    assert result.exit_code == 2
    assert "val: 1 image, published 1449; no readable image" in result.stdout
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert lines[0].startswith(f"{second}: is listed")
    assert lines[1].startswith(f"{first}: cannot be read")
    assert lines[2:] == ["kdtune: 2 faults in 2 files of voc"]


def test_strict(root: str) -> None:
    result = kdtune("check", "voc", "--root", root, "--strict")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "kdtune: 2 faults in 1 file of voc"


def test_what_is_drawn_needs_neither() -> None:
    for command in ("check", "fetch"):
        result = kdtune(command, "demo")
        assert result.exit_code == 0
        assert result.stdout == ""
        assert "drawn by kdtune" in result.stderr


@pytest.mark.parametrize("command", ["check", "fetch"])
def test_bad_words(command: str) -> None:
    assert refused(command, "vok", "--root", "x").startswith("unknown dataset 'vok' (did you mean 'voc'?); there are:")
    other = ", or KDTUNE_DATA_ROOT, the folder in which voc lies" if command == "check" else ""
    assert refused(command, "voc") == f"dataset 'voc' needs --root DIR, its own folder{other}"


def test_check_finds_its_folder_in_the_data_root(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_DATA_ROOT", ".")
    assert kdtune("check", "voc").stdout.startswith(f"voc in {root}: 21 classes\ntrain: 2 images")
    monkeypatch.setenv("KDTUNE_DATA_ROOT", "away")
    assert refused("check", "voc") == "away/voc: no such folder: correct KDTUNE_DATA_ROOT, or give --root DIR"


def test_check_of_nothing() -> None:
    assert refused("check", "voc", "--root", "nowhere").startswith("nowhere: no such folder: ")


@pytest.mark.parametrize("name", ["cityscapes", "camvid"])
def test_fetch_of_what_has_to_be_got_by_hand(name: str) -> None:
    line = refused("fetch", name, "--root", f"data/{name}")
    assert line.startswith(f"{name} cannot be fetched by kdtune: ")
    assert line.endswith(f"into data/{name}, then run: kdtune data check {name} --root data/{name}")


def test_fetch_of_another_archive() -> None:
    Path("other.tar").write_bytes(b"not VOC")
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        result = kdtune("fetch", "voc", "--root", "voc", "--url", f"http://127.0.0.1:{server.server_port}/other.tar")
        server.shutdown()
        thread.join()
    assert result.exit_code == 2
    terms, line = (each for each in result.stderr.splitlines() if "GET /" not in each)
    assert terms.startswith("terms of use: the images of VOC 2012 are from flickr")
    assert "but published is 6cd6e144f989b92b3379bac3b3de84fd: the download is removed" in line
    assert not list(Path("voc").glob("*.tar*"))


def test_fetch_without_a_connection() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # kept, but nobody listens: no other process can take the port meanwhile
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/x.tar"
        result = kdtune("fetch", "ade20k", "--root", "ade20k", "--url", url)
    assert result.exit_code == 1
    assert "Connection refused" in result.stderr
    assert "; continue with: kdtune" in result.stderr.splitlines()[-1]


def test_fetch_of_what_is_not_the_published_one(root: str) -> None:
    assert refused("fetch", "voc", "--root", root).startswith("voc: holds 2 and 2 images (train, val), but published")


def test_pack_is_what_a_trial_then_reads(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    result = kdtune("pack", "voc", "--root", root)
    assert result.exit_code == 0
    assert [line.split(" in ")[0] for line in result.stdout.splitlines()] == [
        "train: 2 images, 1.5 MB",
        "val: 2 images, 1.5 MB",
    ]
    packs = sorted((tmp_path / "cache" / "packs").iterdir())
    found = open_split(Voc(name="voc"), "train", str(tmp_path))  # as a trial with --data-root does
    assert len(found) == 2
    assert sorted((tmp_path / "cache" / "packs").iterdir()) == packs
    assert kdtune("pack", "voc", "--root", root).stdout == result.stdout
    assert refused("pack", "voc", "--root", "nothing").startswith("voc: no folder ")


def test_benches_of_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and units; the figures are the machine's."""
    monkeypatch.setenv("KDTUNE_CACHE", str(tmp_path / "cache"))
    write_synthetic("camvid", tmp_path / "camvid", images=3, size=(60, 80))
    small = ["--set", "dataset.size=[60, 80]", "--set", "recipe.crop=[48, 48]", "--set", "recipe.batch_size=2"]
    where = ["camvid-small", "--data-root", str(tmp_path), *small]
    for words in (["loader", *where, "--steps", "4"], ["evaluation", *where, "--passes", "2"]):
        file = tmp_path / f"{words[0]}.parquet"
        result = CliRunner().invoke(main, ["bench", *words, "-o", str(file)], prog_name="kdtune")
        assert result.exit_code == 0, result.output
        rows = pq.read_table(file).to_pylist()
        first = "reader" if words[0] == "loader" else "loop"
        assert [row[first] for row in rows] == {
            "reader": ["packed", "torchvision x 2"],
            "loop": ["kdtune", "plain loop"],
        }[first]
        assert all(row["images_per_second"] > 0 for row in rows)
        if first == "reader":
            assert rows[0]["ratio"] == pytest.approx(rows[0]["images_per_second"] / rows[1]["images_per_second"])
            assert 0 < rows[0]["uss_mb"] < 1000
