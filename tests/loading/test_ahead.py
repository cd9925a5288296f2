"""Threads that run ahead: order, errors, and that they end."""

import itertools
import threading
import time

import pytest
import torch

from kdtune.loading import batches
from kdtune.loading.ahead import in_order
from kdtune.loading.batches import train_batches
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


def test_no_more_is_made_than_asked_for() -> None:
    made: list[int] = []
    items = in_order(made.append, itertools.count(), workers=2, ahead=3)
    next(items), next(items)
    time.sleep(0.05)
    assert sorted(made) == [0, 1, 2, 3, 4]


def test_an_error_comes_in_its_turn_and_ends_the_threads() -> None:
    def work(i: int) -> int:
        if i == 2:
            raise ValueError("the third")
        return i

    before, items = threads(), in_order(work, range(9), workers=3, ahead=4)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(items)
    assert threads() == before


@pytest.mark.parametrize("close", [True, False])
def test_what_is_closed_or_forgotten_ends_its_threads(close: bool) -> None:
    before = threads()
    items = in_order(str, itertools.count(), workers=2, ahead=3)
    next(items)
    assert len(threads() - before) == 2
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
