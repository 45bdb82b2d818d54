"""Fixtures of the kernel tests: they run on each instruction-set level that this processor has."""

from collections.abc import Iterator

import pytest

from models.kernels.cpu import build, library

# All its code is that of its neighbors, and compiling takes time.
_NOT_TESTED = "avx512_vnni"


def _levels() -> list[str]:
    names = [level.name for level in build.LEVELS]
    best = library.detect_level()
    return [name for name in names[: names.index(best)] if name != _NOT_TESTED] + [best]


@pytest.fixture(scope="session", params=_levels())
def loaded_kernels(request: pytest.FixtureRequest) -> library.KernelLibrary:
    return library.load_level(request.param)


@pytest.fixture(scope="module")
def kernels(loaded_kernels: library.KernelLibrary) -> Iterator[library.KernelLibrary]:
    """The kernel library of one level, with two threads. Tests of other modules get back what they had: a thread that
    waits for another spins, which costs much where tests run beside each other."""
    before = loaded_kernels.num_threads()
    loaded_kernels.set_num_threads(2)
    yield loaded_kernels
    loaded_kernels.set_num_threads(before)
