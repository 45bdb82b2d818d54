"""Fixtures of the kernel tests: they run on each instruction-set level that this processor has."""

import pytest

from models.kernels.cpu import build, library

# All its code is that of its neighbors, and compiling takes time.
_NOT_TESTED = "avx512_vnni"


def _levels() -> list[str]:
    names = [level.name for level in build.LEVELS]
    best = library.detect_level()
    return [name for name in names[: names.index(best)] if name != _NOT_TESTED] + [best]


@pytest.fixture(scope="session", params=_levels())
def kernels(request: pytest.FixtureRequest) -> library.KernelLibrary:
    """The kernel library of one level, with two threads."""
    kernels = library.load_level(request.param)
    kernels.set_num_threads(2)
    return kernels
