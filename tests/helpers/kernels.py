"""torch_alone: computing without native kernels, as on a device that has none."""

import contextlib
import functools
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def torch_alone() -> Iterator[None]:
    """Models that are loaded and run inside find no kernel library."""
    with pytest.MonkeyPatch.context() as patch:
        nothing = functools.cache(lambda: (None, "switched off"))
        patch.setattr("models.kernels.cpu.library._library_and_reason", nothing)
        yield
