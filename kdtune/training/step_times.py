"""How long a step takes on this machine, as ``kdtune bench train`` has measured it: kept for forecasts.

One small file for each configuration, by its id, which seeds do not change.
"""

import json
import math
from pathlib import Path

from kdtune.filesystem.folder import Folder
from kdtune.loading.cache import cache_folder
from kdtune.study.trial_config import TrialConfig


def _folder() -> Path:
    return cache_folder() / "step-times"


def keep(config: TrialConfig, seconds: float) -> None:
    """Notes the seconds of one step of a trial like this one, evaluations left out."""
    Folder(str(_folder())).write(f"{config.config_id}.json", json.dumps({"seconds": seconds}).encode())


def kept(config: TrialConfig) -> float | None:
    """What was noted last; none if nothing was, or the file is damaged."""
    try:
        content = Folder(str(_folder())).read(f"{config.config_id}.json")
        seconds = float(json.loads(content)["seconds"]) if content is not None else math.nan
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
