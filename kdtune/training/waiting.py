"""Where a GPU may be waited for."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def waiting(device: torch.device) -> Iterator[None]:
    """Where a GPU may be waited for; ``kdtune bench gpu`` makes any other wait within the loop an error."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
