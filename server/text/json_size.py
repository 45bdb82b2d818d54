"""json_size: how much there is in JSON values, as `TextWorkers` counts text."""

from typing import Any

from server.text.workers import ITEM_SIZE, LONG_SIZE


def json_size(*values: Any) -> int:
    """Characters of all texts and names, and ITEM_SIZE for each value. Above LONG_SIZE it is counted no further."""
    size = 0
    pending = list(values)
    while pending and size <= LONG_SIZE:
        value = pending.pop()
        size += ITEM_SIZE
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, dict | list) and size + ITEM_SIZE * len(value) > LONG_SIZE:
            return LONG_SIZE + ITEM_SIZE  # without a look at each of them: the event loop waits
        elif isinstance(value, dict):
            size += sum(map(len, value))
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return size
