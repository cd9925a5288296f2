"""Finds the hyperparameters of knowledge distillation for semantic segmentation.

``from kdtune import load_study, launch, results``; each is imported when first asked for, so that the command
line's help needs neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdtune.api import launch as launch
    from kdtune.api import load_study as load_study
    from kdtune.api import results as results

__version__ = "0.1.0"
__all__ = ["__version__", "launch", "load_study", "results"]


def __getattr__(name: str) -> Any:
    if name in ("launch", "load_study", "results"):
        return getattr(import_module("kdtune.api"), name)
    raise AttributeError(f"module 'kdtune' has no attribute '{name}'")
