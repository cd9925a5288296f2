"""A cache of one's own, for what must not find what was kept before."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def own_cache(folder: str) -> Iterator[None]:
    """``KDTUNE_CACHE`` in a folder, here and in processes that are started meanwhile."""
    before = os.environ.get("KDTUNE_CACHE")
    os.environ["KDTUNE_CACHE"] = f"{folder}/cache"
    try:
        yield
    finally:
        os.environ.pop("KDTUNE_CACHE")
        if before is not None:
            os.environ["KDTUNE_CACHE"] = before
