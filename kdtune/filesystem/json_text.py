"""JSON of files that others may have written."""

import json
from typing import Any


def parsed(content: bytes | str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is damaged, or has more lists within lists than can be followed.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("too many parts within each other") from None
