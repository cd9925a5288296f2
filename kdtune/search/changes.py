"""What may differ between two launches of a study: its own fields, and the versions of everything that runs it."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import kdtune
from kdtune.study.plug_ins import named, plug_ins
from kdtune.study.spec import StudySpec

UNTOLD = {"stall_after"}  # how a launch is watched changes nothing that it runs


def differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    """The dotted paths at which two studies differ; a stage goes by its name."""
    if isinstance(before, list) and isinstance(now, list) and all(isinstance(x, dict) for x in [*before, *now]):
        before, now = ({x.get("name", i): x for i, x in enumerate(side)} for side in (before, now))
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [key for key in dict.fromkeys([*before, *now]) if prefix or key not in UNTOLD]
        return [d for key in keys for d in differences(before.get(key), now.get(key), f"{prefix}{key}.")]
    return [] if before == now else [prefix.rstrip(".")]


def versions(study: StudySpec) -> dict[str, str | None]:
    """Of everything that can change a number, plug-ins among it."""
    import torch  # imported already, by what runs the trials

    packages = {name: version(name) for name in ("torchvision", "ray", "pyarrow", "optuna")}
    return {
        "kdtune": kdtune.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        **packages,
        **{plug_in.package: plug_in.version for plug_in in plug_ins(named(study))},
    }
