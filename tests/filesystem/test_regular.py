"""What is no file is not read, and what lies in the place of a file is not written through."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtune.base import UserError
from kdtune.filesystem.folder import Folder, _writer, read_file
from kdtune.training.weights import read_header, read_weights


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("kind", [pipe, device])
@pytest.mark.parametrize("name", ["student.safetensors", "teacher.pth", "launch.json"])
@pytest.mark.timeout(30)
def test_what_never_ends_is_not_read(tmp_path: Path, kind: Callable[[Path], None], name: str) -> None:
    kind(tmp_path / name)
    readers: list[Callable[[str], object]] = [read_file]
    if not name.endswith(".json"):
        readers += [read_weights, lambda uri: read_header(uri) and pytest.fail("it was read")]
    for read in readers[:2]:
        with pytest.raises(UserError, match=f"{name}: is a (pipe|device), not a file"):
            read(str(tmp_path / name))
    for read in readers[2:]:
        read(str(tmp_path / name))


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    folder(tmp_path / "launch.json")
    with pytest.raises(UserError, match="is a folder, not a file"):
        Folder(str(tmp_path)).read("launch.json")


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path: Path) -> None:
    """Also one under the name that the file has while it is written, which can be guessed."""
    mine = tmp_path / "mine"
    mine.write_text("of the user")
    results = tmp_path / "results"
    results.mkdir()
    for name in ("plan.json", f"plan.json.{_writer()}.partial"):
        (results / name).symlink_to(mine)
    Folder(str(results)).write("plan.json", b"new")
    assert mine.read_text() == "of the user"
    assert not (results / "plan.json").is_symlink()
    assert [path.name for path in results.iterdir()] == ["plan.json"]
    (results / f"lock.json.{_writer()}.partial").symlink_to(mine)
    assert Folder(str(results)).create("lock.json", b"new")
    assert mine.read_text() == "of the user"
