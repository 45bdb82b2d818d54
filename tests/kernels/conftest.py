"""Fixtures of the kernel tests: every instruction-set level that this processor runs is compiled and tested."""

import pytest

from models.kernels.cpu import build, library


def _levels() -> list[str]:
    names = [level.name for level in build.LEVELS]
    return names[: names.index(library.detect_level()) + 1]


@pytest.fixture(scope="session", params=_levels())
def kernels(request: pytest.FixtureRequest) -> library.KernelLibrary:
    """The kernel library of one level."""
    return library.load_level(request.param)
