"""Threads that run ahead: order, errors, and that they end."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from kdtune.loading import batches
from kdtune.loading.ahead import in_order, prefetched
from kdtune.loading.batches import _windows, resample, train_batches, views
from tests.support.tiny import config, noise


def threads() -> set[threading.Thread]:
    """Of this kind alone: those of other tests begin and end meanwhile."""
    return {each for each in threading.enumerate() if each.name.startswith(("kdtune-ahead", "kdtune-crops"))}


def test_the_order_is_kept_whoever_is_quicker() -> None:
    def work(i: int) -> int:
        time.sleep(0.002 * (i % 3 == 0))
        return i * i

    assert list(in_order(work, range(40), workers=4, ahead=8)) == [i * i for i in range(40)]
    assert list(in_order(work, [], workers=4, ahead=8)) == []
    assert list(prefetched(range(7), 3)) == list(range(7))
    assert list(prefetched([], 3)) == []


def test_no_more_is_made_than_asked_for() -> None:
    made = []
    items = prefetched((made.append(i) or i for i in itertools.count()), 3)  # type: ignore[func-returns-value]
    assert [next(items), next(items)] == [0, 1]
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4]


def test_an_error_comes_in_its_turn_and_ends_the_thread() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    before, items = threads(), prefetched(broken(), 3)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(items)
    assert threads() == before


@pytest.mark.parametrize("close", [True, False])
def test_what_is_closed_or_forgotten_ends_its_thread(close: bool) -> None:
    before = threads()
    items = prefetched(itertools.count(), 3)
    next(items)
    assert len(threads() - before) == 1
    if close:
        items.close()
    else:
        del items
    assert threads() == before


def test_batches_end_their_threads_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SMALL", 0)
    before = threads()
    made = train_batches(noise([(40, 50)] * 4), config().recipe, 0, 0, torch.device("cpu"))
    next(made)
    assert threads() - before
    del made
    assert threads() == before


def test_prefetched_batches_are_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does, on a processor: windows by a thread, one batched resampling."""
    monkeypatch.setattr(batches, "SMALL", 0)
    split = noise([(40, 50), (33, 47), (9, 60)])
    recipe = config({"recipe.batch_size": 3, "recipe.crop": [16, 20], "recipe.num_steps": 20}).recipe

    def windows() -> Iterator[object]:
        for step in range(recipe.num_steps):
            yield _windows(split, views(recipe, split.sizes, 2, step), recipe.crop)

    plain = train_batches(split, recipe, 2, 0, torch.device("cpu"))
    for ahead, direct, other in zip(prefetched(windows(), 3), windows(), plain, strict=True):
        one, two = resample(ahead), resample(direct)  # type: ignore[arg-type]
        inside = one.inside[:, None].expand(-1, 3, -1, -1)
        assert torch.equal(one.pixels, two.pixels)
        assert torch.equal(one.target, two.target)
        # a processor takes each crop from its own window: the same positions, rounded differently
        torch.testing.assert_close(one.pixels.int()[inside], other.pixels.int()[inside], rtol=0, atol=1)
        assert torch.equal(one.inside, other.inside)
        assert torch.equal(one.target, other.target)
