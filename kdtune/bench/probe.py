"""``python -m kdtune.bench.probe FILE FOLDER WORD...``: ``kdtune WORD...``, then in FILE what it held and opened."""

import atexit
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Counts the files below FOLDER that are opened; tells them and the process's own peak of memory [MiB]."""
    told, folder, *words = sys.argv[1:]
    opened = 0

    def look(event: str, given: tuple[Any, ...]) -> None:
        nonlocal opened
        opened += event == "open" and str(given[0]).startswith(folder)

    def tell() -> None:
        # not getrusage's: that of a new process begins with what its parent held
        (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        Path(told).write_text(json.dumps({"mib": int(peak) / 1024, "files": opened}))

    atexit.register(tell)
    sys.addaudithook(look)
    sys.argv[1:] = words
    runpy.run_module("kdtune", run_name="__main__", alter_sys=True)  # the command line stands above the benches


if __name__ == "__main__":
    main()
