"""``kdtune bench demo``: the launch that a newcomer sees first, from the command to the tables."""

import subprocess
import sys
import tempfile
import time

import psutil

from kdtune.base import RunError
from kdtune.bench.figures import told
from kdtune.records.storage import Storage


def demo(output: str | None) -> str:
    """``kdtune launch demo`` as a user runs it, with the memory of all its processes sampled every half second."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-m", "kdtune", "launch", "demo", "--storage", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        rss, pss = 0, 0
        while process.poll() is None:
            now = _memory(process.pid)
            rss, pss = max(rss, now[0]), max(pss, now[1])
            time.sleep(0.5)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise RunError(f"`kdtune launch demo` ended with status {process.returncode}")
        trials = Storage(folder, "demo").table("trials")
    row = {
        "seconds": seconds,
        "rss_mb": rss / 2**20,
        "pss_mb": pss / 2**20,
        "trials": trials.num_rows,
        "stages": len(set(trials["stage"].to_pylist())),
        "stopped": trials["status"].to_pylist().count("stopped"),
    }
    return told("kdtune launch demo", [row], output)


def _memory(pid: int) -> tuple[int, int]:
    """Resident memory of a process and all below it, summed, and the same with shared pages counted once."""
    rss = pss = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            try:
                info = process.memory_full_info()
            except psutil.Error:
                continue  # it has just ended
            rss, pss = rss + info.rss, pss + info.pss
    except psutil.Error:
        pass
    return rss, pss
