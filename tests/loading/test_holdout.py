"""What is held out of a training split: whole sequences, as many as come closest to the share, always the same."""

import numpy as np
import pytest

from kdtune.loading.holdout import Some, held_out
from kdtune.loading.images import Direct


def test_single_images_where_no_sequence_is_known() -> None:
    names = [f"{i:03}" for i in range(200)]
    mask = held_out(names, [None] * 200, 0.1, seed=0)
    assert mask.sum() == 20
    assert (mask == held_out(names, [None] * 200, 0.1, seed=0)).all()
    assert (mask != held_out(names, [None] * 200, 0.1, seed=1)).any()
    turned = held_out(names[::-1], [None] * 200, 0.1, seed=0)
    assert (turned[::-1] == mask).all()  # by name, wherever it stands


def test_sequences_stay_whole() -> None:
    sequences = [f"drive{i // 7}" for i in range(350)]
    mask = held_out([f"{i}" for i in range(350)], sequences, 0.1, seed=0)
    assert mask.reshape(50, 7).sum(1).tolist().count(7) == 5
    assert mask.sum() == 35


@pytest.mark.parametrize(
    ("sizes", "share", "taken"),
    [
        ([300, 60, 40], 0.15, {60}),  # of any order: 300 is too many, 40 beside 60 too
        ([300, 200], 0.1, {200}),  # none comes close: the smallest
        ([300], 0.5, set()),  # nothing would be left
    ],
)
def test_few_long_sequences(sizes: list[int], share: float, taken: set[int]) -> None:
    sequences = [f"s{i}" for i, size in enumerate(sizes) for _ in range(size)]
    for seed in range(8):
        mask = held_out([str(i) for i in range(len(sequences))], sequences, share, seed)
        found = {sequence for sequence, held in zip(sequences, mask, strict=True) if held}
        assert {sizes[int(sequence[1:])] for sequence in found} <= {60, 40, 200}
        if taken != {60}:
            assert {sizes[int(sequence[1:])] for sequence in found} == taken


def test_some_images_of_a_split_are_a_split() -> None:
    sizes = np.array([[2, 3], [4, 5], [6, 7]])
    split = Direct(("a", "b", "c"), sizes, lambda i: (np.full((1, 1, 3), i), np.full((1, 1), i)))
    some = Some(split, np.array([0, 2]))
    assert (some.names, len(some), some.sizes.tolist()) == (("a", "c"), 2, [[2, 3], [6, 7]])
    assert (some.image(1)[0, 0, 0], some.label(1)[0, 0]) == (2, 2)
