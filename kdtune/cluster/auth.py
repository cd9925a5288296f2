"""Ray's token: whoever can reach a Ray without one runs code on it, so every Ray that kdtune starts or uses has one.

Ray reads the variables when it is imported, so this comes before that.
"""

import contextlib
import os
import secrets
from pathlib import Path

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
WHERE = f"the cluster's token in ~/.ray/auth_token, {TOKEN_PATH} or {TOKEN}"  # for error messages


def use_token() -> None:
    """Has Ray send its token, if there is one: with an address other than "auto" it does not look for it by itself."""
    if TOKEN in os.environ or _path().is_file():
        os.environ.setdefault(MODE, "token")


def require_token() -> None:
    """Has a Ray that is started here ask for a token; makes one that only this user can read, if there is none."""
    path = _path()
    os.environ[MODE] = "token"
    if TOKEN in os.environ:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            _make(path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError:  # no home to write to: the processes of this Ray inherit it
        if not path.is_file():
            os.environ[TOKEN] = secrets.token_hex(32)


def _make(path: Path) -> None:
    """Appears whole, and readable by this user alone (Ray would let all read it); the first of several makers wins."""
    made = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    with contextlib.suppress(FileExistsError):
        os.link(made, path)
    made.unlink()


def _path() -> Path:
    return Path(os.environ.get(TOKEN_PATH, "~/.ray/auth_token")).expanduser()
