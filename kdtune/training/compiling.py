"""Compiled networks, and where torch keeps what it compiled."""

import os
from typing import Any

import torch
import torch._functorch.config

from kdtune.base import SegNet
from kdtune.filesystem import home

VARIANTS = 4096  # of networks, taps and shapes that a process may compile
COMPILED = "TORCHINDUCTOR_CACHE_DIR"  # where torch keeps what it compiled, and loads it from


def compiled(network: SegNet) -> Any:
    """The network's compiled forward, made once per network."""
    if not hasattr(network, "kdtune_compiled"):
        if COMPILED not in os.environ:  # torch's own choice is a name in /tmp that another user can take before
            os.environ[COMPILED] = str(home.private(f"and compiled code is kept there: set {COMPILED}") / "compiled")
        from torch._dynamo import config as dynamo  # after that, for it looks; and it takes seconds

        torch._functorch.config.donated_buffer = False  # ``grad_norms`` goes back through the graph more than once
        # all networks share one ``__call__``: past torch's own eight, a kept worker's next ones would run uncompiled
        dynamo.recompile_limit = dynamo.accumulated_recompile_limit = VARIANTS
        # bypasses nn.Module's registration: the compiled twin must not enter the state dict
        object.__setattr__(network, "kdtune_compiled", torch.compile(network))
    return network.kdtune_compiled
