"""What the trials of a study do not have in common, though it can change their numbers."""

from collections import Counter

import pyarrow as pa

CAUSES = {  # column of ``trials`` -> what it is, in words
    "numerics": "version of the numerics",
    "torch_version": "torch",
    "device": "device",
    "threads": "threads on a processor",
}


def unlike(trials: pa.Table) -> list[str]:
    """A line for each cause in which trials that have ended differ; none where all are alike."""
    found = []
    for column, words in CAUSES.items():
        if column in trials.column_names:
            counts = Counter(_shown(value) for value in trials[column].to_pylist())
            if len(counts) > 1:
                told = ", ".join(f"{value}: {n} trial{'s' * (n != 1)}" for value, n in sorted(counts.items()))
                found.append(f"not all trials have the same {words} ({told}): part of a difference may come from that")
    return found


def _shown(value: object) -> str:
    return "none told" if value is None else str(value)
