"""What a launch tells all of its workers at once: kept by Ray's control store, read by whoever needs it.

Tune keeps several copies of each trial's configuration. What many trials share is told here, under a short key.
"""

import kdtune.cluster.environment  # noqa: F401  # isort: skip  # before Ray, which reads it

import functools
from typing import Any

from ray import cloudpickle
from ray.experimental import internal_kv

SPACE = b"kdtune"


def put(key: str, value: Any) -> None:
    """Tells a value; what stands under a key is never changed."""
    internal_kv._internal_kv_put(key, cloudpickle.dumps(value), namespace=SPACE)


@functools.lru_cache(maxsize=8)  # a worker runs trial after trial of one stage
def get(key: str) -> Any:
    """What was told under the key.

    Raises:
        KeyError: nothing was, or its launch has ended.
    """
    found = internal_kv._internal_kv_get(key, namespace=SPACE)
    if found is None:
        raise KeyError(key)
    return cloudpickle.loads(found)


def clear(start: str) -> None:
    """Takes back all that was told under keys with this start."""
    internal_kv._internal_kv_del(start, del_by_prefix=True, namespace=SPACE)
