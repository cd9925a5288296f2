"""Work that runs ahead of who needs it, in threads; results come in order."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def in_order(function: Callable[[In], Out], items: Iterable[In], *, workers: int, ahead: int) -> Generator[Out]:
    """``map(function, items)`` by threads, at most ``ahead`` results before the one that is asked for.

    What an item raises is raised in its turn. The threads end with this generator, whether it is used up or not.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(workers, "kdtune-ahead")
    pending: deque[Future[Out]] = deque()
    try:
        for item in itertools.islice(source, ahead):
            pending.append(pool.submit(function, item))
        while pending:
            result = pending.popleft().result()
            for item in itertools.islice(source, 1):
                pending.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)
