"""How many calls a function makes: unlike time, the same everywhere."""

import sys
from collections.abc import Callable
from types import FrameType


def num_calls(function: Callable[[], object]) -> int:
    count = 0

    def hook(frame: FrameType, event: str, arg: object) -> None:  # noqa: ARG001
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(hook)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count
