"""What a step takes on this machine, as ``kdtune bench train`` has measured it: kept for forecasts.

One small file for each configuration, by its id, which seeds do not change.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from kdtune.filesystem.folder import Folder
from kdtune.loading.cache import cache_folder
from kdtune.study.trial_config import TrialConfig


@dataclass(frozen=True)
class Step:
    """One step of a trial, evaluations left out."""

    seconds: float
    kwh: float | None = None  # none: not metered


def _folder() -> Path:
    return cache_folder() / "step-times"


def keep(config: TrialConfig, step: Step) -> None:
    """Notes a step of a trial like this one."""
    Folder(str(_folder())).write(f"{config.config_id}.json", json.dumps(asdict(step)).encode())


def kept(config: TrialConfig) -> Step | None:
    """What was noted last; none if nothing was, or the file is damaged."""
    try:
        content = Folder(str(_folder())).read(f"{config.config_id}.json")
        found = json.loads(content) if content is not None else {}
        seconds, kwh = float(found["seconds"]), found.get("kwh")
        kwh = None if kwh is None else float(kwh)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if not (math.isfinite(seconds) and seconds > 0):
        return None
    return Step(seconds, kwh if kwh is not None and math.isfinite(kwh) and kwh > 0 else None)
