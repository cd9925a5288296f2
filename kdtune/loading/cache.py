"""The folder of what is derived from images once and used by every trial: packs, content keys."""

import os
import stat
from functools import cache
from pathlib import Path

from platformdirs import user_cache_path

from kdtune.errors import UserError

SHARED = "KDTUNE_CACHE_SHARED"  # 1: others may write the cache, and the user trusts them


def cache_folder() -> Path:
    """``KDTUNE_CACHE``, else the user's cache folder.

    Raises:
        UserError: other users of the machine can write there, and so choose the pixels that are trained on.
    """
    given = os.environ.get("KDTUNE_CACHE")
    found = Path(given).expanduser() if given else user_cache_path("kdtune")
    if os.environ.get(SHARED) != "1":
        _refuse_shared(found)
    return found


@cache  # asked with every image's digest, and it does not change
def _refuse_shared(folder: Path) -> None:
    try:
        status = folder.stat()
    except OSError:
        return  # made by us, or not at all
    if os.getuid() and status.st_uid not in (os.getuid(), 0):  # root is often the same person in a container
        who = f"user {_user(status.st_uid)} owns it"
    elif status.st_mode & stat.S_IWOTH:
        who = "every user may write it"
    elif status.st_mode & stat.S_IWGRP and not _is_own_group(status.st_gid):
        who = f"group {_group(status.st_gid)} may write it"
    else:
        return
    raise UserError(
        f"{folder}: a cache that others could change: {who}; point KDTUNE_CACHE at a folder of yours, or set "
        f"{SHARED}=1 if you trust them with the images that you train on"
    )


def _is_own_group(gid: int) -> bool:
    """Whether it is the group that many systems make for each user alone, of the same name."""
    return gid == os.getgid() and _group(gid) == _user(os.getuid())


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
