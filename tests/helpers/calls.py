"""How many calls a function makes: unlike time, the same everywhere."""

import gc
import sys
from collections.abc import Callable
from types import FrameType


def num_calls(function: Callable[[], object]) -> int:
    count = 0

    def hook(frame: FrameType, event: str, arg: object) -> None:  # noqa: ARG001
        nonlocal count
        count += event in ("call", "c_call")

    gc.collect()
    gc.disable()  # libraries have it call them, whenever its turn is
    sys.setprofile(hook)
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count
