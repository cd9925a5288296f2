"""Many requests of a storage at once: each need not wait for the last."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from kdtune.filesystem.folder import READERS

S = TypeVar("S")
T = TypeVar("T")

LAST = 20.0  # seconds that requests under way get to end after an error: longer than a server that is silent gets


def at_once(work: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
    """The results of ``work`` in the order of the items, ``READERS`` of them worked on at once.

    After an error or Ctrl-C none is begun any more. Those under way are waited for, since Python cannot end with a
    thread inside of pyarrow; not those that wait for a storage that is away, which the threads of
    ``concurrent.futures`` would keep the process waiting for.
    """
    todo = deque((item, Future[T]()) for item in items)
    answers = deque(future for _, future in todo)

    def serve() -> None:
        while True:
            try:
                item, future = todo.popleft()
            except IndexError:
                return
            try:
                future.set_result(work(item))
            except BaseException as error:
                future.set_exception(error)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(READERS, len(todo)))]
    for thread in threads:
        thread.start()
    try:
        while answers:
            yield answers.popleft().result()
    finally:
        todo.clear()
        end = time.monotonic() + LAST
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
