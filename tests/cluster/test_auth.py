"""Ray's token: there before Ray starts, and readable by its user alone."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kdtune.cluster.auth import MODE, TOKEN, TOKEN_PATH, require_token, use_token


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (MODE, TOKEN, TOKEN_PATH):
        monkeypatch.setenv(name, "")  # so that what the test sets is undone
        monkeypatch.delenv(name)
    return tmp_path


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_once_for_its_user_alone(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    before = os.umask(0)
    try:
        require_token()
    finally:
        os.umask(before)
    token = file.read_text()
    assert len(token) == 64
    assert rights(file) == 0o600
    assert os.environ[MODE] == "token"
    require_token()
    assert file.read_text() == token
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]


def test_a_token_that_others_can_read_is_closed_to_them(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("theirs")
    file.chmod(0o644)
    require_token()
    assert (file.read_text(), rights(file)) == ("theirs", 0o600)


def test_a_ray_that_is_started_here_always_asks_for_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE, "disabled")
    require_token()
    assert os.environ[MODE] == "token"


def test_without_a_home_it_is_inherited(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("HOME", str(home / "file"))
    require_token()
    assert len(os.environ[TOKEN]) == 64


@pytest.mark.parametrize("where", ["file", "path", "variable", "nowhere"])
def test_a_token_that_is_there_is_sent(home: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    if where == "file":
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("t")
    if where == "path":
        (home / "mine").write_text("t")
        monkeypatch.setenv(TOKEN_PATH, str(home / "mine"))
    if where == "variable":
        monkeypatch.setenv(TOKEN, "t")
    use_token()
    assert os.environ.get(MODE) == (None if where == "nowhere" else "token")


def test_many_makers_agree(home: Path) -> None:
    code = "from kdtune.cluster.auth import require_token; require_token()\n"
    code += "from pathlib import Path; print(Path('~/.ray/auth_token').expanduser().read_text())"
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({process.communicate()[0] for process in started}) == 1
