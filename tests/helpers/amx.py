"""without_amx: tests of sums that AMX rounds otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from models.kernels.cpu.library import allow_amx, kernel_library


@contextmanager
def without_amx() -> Iterator[None]:
    """Compute with the kernels for few rows alone: tiles of many rows add up in another order. Skips the test on a
    machine without kernels."""
    if kernel_library() is None:
        pytest.skip("the native kernels cannot be compiled here")
    allow_amx(False)
    try:
        yield
    finally:
        allow_amx(True)
