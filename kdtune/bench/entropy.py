"""``kdtune bench entropy``: how fast a teacher's logits become histograms, the teacher's own time apart."""

import math
import time
from collections.abc import Callable, Sequence

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.analysis.entropy_counts import BINS, Asked, tally, threads
from kdtune.bench.figures import told
from kdtune.records.rows import Row
from kdtune.resize import enlarged

CROP = (512, 512)
CELLS = 65  # of a network of stride 8 at 512 pixels, SKD's stem


def entropy(classes: Sequence[int], crops: int, num_threads: int, output: str | None) -> str:
    """Crops of 512 x 512 per second at five temperatures, with and without enlarging the logits, on random ones.

    ``memory_mb`` is what resident memory grew by from the second crop to the last; ``worst_bin`` the largest distance
    of a bin's share from that of float64.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        rows = [_measured(number, crops) for number in classes]
    finally:
        torch.set_num_threads(before)
    return told(f"entropy, {crops} crops, five temperatures, {num_threads} threads", rows, output)


def _measured(classes: int, crops: int) -> Row:
    torch.manual_seed(0)
    small = 4 * torch.randn(1, classes, CELLS, CELLS)
    large = enlarged(small, CROP)
    asked = Asked()
    with threads() as spread:

        def count(logits: Tensor) -> None:
            tally(logits[0], asked.temperatures, asked.threshold, spread)

        count(enlarged(small, CROP))
        memory = psutil.Process().memory_info().rss
        alone, cpu = _seconds(lambda: count(large), crops)
        whole, _ = _seconds(lambda: count(enlarged(small, CROP)), crops)
        memory = psutil.Process().memory_info().rss - memory
        found = tally(large[0], asked.temperatures, asked.threshold, spread)
    reference = torch.stack([exact(large[0], temperature) for temperature in asked.temperatures])
    return {
        "classes": classes,
        "crops_per_second": 1 / alone,
        "enlarged_per_second": 1 / whole,
        "cpu_ms": 1000 * cpu,
        "memory_mb": memory / 2**20,
        "worst_bin": float((torch.from_numpy(found.bins) - reference).abs().max() / found.pixels),
        "load": psutil.getloadavg()[0],
    }


def _seconds(run: Callable[[], None], times: int) -> tuple[float, float]:
    """Of one run: on the clock, and of processors."""
    began, used = time.perf_counter(), time.process_time()
    for _ in range(times):
        run()
    return (time.perf_counter() - began) / times, (time.process_time() - used) / times


def exact(logits: Tensor, temperature: float) -> Tensor:
    """The bins of logits (K, H, W) by the definition of entropy, in float64."""
    log_p = F.log_softmax(logits.flatten(1).double() / temperature, dim=0)
    values = -(log_p.exp() * log_p).sum(0)
    places = (values * (BINS / math.log(len(logits)))).clamp_(0, BINS - 1).long()
    return torch.bincount(places, minlength=BINS)
