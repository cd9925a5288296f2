"""A test's body in a process of its own, where nothing that other tests have loaded, started or compiled can matter."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def alone(body: Callable[..., Any], *arguments: Any) -> Any:
    """What the body returns or raises; body and arguments are pickled."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(body, *arguments).result()
