"""What a process computes on: a GPU, if it has a share of one, or the processors that it may use."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"  # the variable by which CUDA is told; empty: none


def compute_device() -> "torch.device":
    """Cuda if there and not hidden, else cpu; cuda is set up so that equal trials come to equal digits.

    cuDNN takes algorithms that add in one order, always the same ones, and float32 means float32: TF32, which cuDNN
    takes unless told otherwise, has 10 bits of mantissa.
    """
    import torch

    if os.environ.get(VISIBLE_GPUS) == "" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda")


def hide_gpus() -> None:
    """This process has no share of a GPU: ``compute_device`` is cpu from now on, whatever the machine has."""
    os.environ[VISIBLE_GPUS] = ""  # CUDA itself reads it when it is first used, later only ``compute_device`` does


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
