"""``kdtune bench gpu``: what only a GPU can show: part after part, each written to a JSON file when it is done.

It needs neither Ray nor the command line: ``python -m kdtune.bench.gpu FILE.json``. The parts stand in the order of
what would be missed most if the time runs out. Without a GPU it runs the same parts at the smallest size: that shows
that they run, and no figure of them is one of a GPU.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from kdtune.base import UserError
from kdtune.bench.gpu_parts import FULL, PARTS, SMALLEST, Part, where, written_teacher
from kdtune.bench.own_cache import own_cache
from kdtune.devices import compute_device

SECONDS = 480.0  # after which no part is begun


def gpu(file: str, seconds: float = SECONDS) -> Part:
    """Runs all parts, as far as ``seconds`` reach, and returns what is in the file."""
    began, device = time.monotonic(), compute_device()
    size = FULL if device.type == "cuda" else SMALLEST
    found: Part = {"where": where(device), "size": size.__dict__}
    _write(file, found)  # what cannot be written is told now, not after minutes
    with tempfile.TemporaryDirectory() as folder, own_cache(folder):
        teacher = written_teacher(size, f"{folder}/teacher.safetensors")
        for name, part in PARTS.items():
            if time.monotonic() - began > seconds:
                found[name] = "not begun: the time was up"
            else:
                at = time.monotonic()
                try:
                    found[name] = part(size, teacher, device)
                except Exception as error:  # what the other parts tell is worth having
                    found[name] = {"error": f"{type(error).__name__}: {error}"}
                found[name]["seconds"] = round(time.monotonic() - at, 1)
            _write(file, found)
    return found


def _write(file: str, found: Part) -> None:
    """Replaces the file.

    Raises:
        UserError: it cannot be written.
    """
    try:
        Path(file).write_text(json.dumps(found, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    print(json.dumps(gpu(sys.argv[1]), indent=1))
