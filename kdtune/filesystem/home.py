"""A home for a user that has none: without HOME and an entry in /etc/passwd, as containers run with any user's id.

Ray, torch, matplotlib and codecarbon each look for their folders there, and end where there is none.
"""

import os
import stat
import tempfile
from pathlib import Path

from kdtune.errors import UserError


def temporary() -> Path:
    """Of this user, on this machine; gone with its temporary files."""
    return Path(tempfile.gettempdir()) / f"kdtune-{os.getuid()}"


def private(instead: str) -> Path:
    """That folder, made: nobody else can write to it, nor has made it before, for all users know its name.

    Raises:
        UserError: somebody else has made it; says what to do ``instead``.
    """
    folder = temporary()
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise UserError(f"{folder}: is another user's, {instead}")
    return folder


def give_one() -> None:
    """Sets HOME, unless there is a home.

    Raises:
        UserError: somebody else has made the folder.
    """
    try:
        Path.home()
    except RuntimeError:
        folder = private("and there is no other home here: set HOME")
        os.environ["HOME"] = str(folder)


def is_temporary() -> bool:
    """Whether nothing that lies in the home outlives this machine's temporary files."""
    return os.environ.get("HOME") == str(temporary())
