"""Fixtures of the kernel tests: they run on each instruction-set level that this processor has."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from models.kernels.cpu import library
from models.kernels.cpu.operations import CpuOperations
from models.kernels.ops import Operations
from tests.helpers.kernel_levels import tested_levels

_LEVELS = tested_levels(library.detect_level())


@pytest.fixture(scope="session", params=_LEVELS)
def loaded_kernels(request: pytest.FixtureRequest) -> library.KernelLibrary:
    return library.load_level(request.param)


@pytest.fixture(scope="module")
def kernels(loaded_kernels: library.KernelLibrary) -> Iterator[library.KernelLibrary]:
    """The kernel library of one level, with two threads."""
    with _two_threads(loaded_kernels):
        yield loaded_kernels


@dataclass(frozen=True)
class Column:
    """A column of the table of operations: torch's, or the CPU's with `kernels`."""

    kernels: library.KernelLibrary | None = None

    def __call__(self, dtype: torch.dtype) -> Operations:
        """Return the operations on activations of `dtype`."""
        return Operations() if self.kernels is None else CpuOperations(self.kernels, dtype)


@pytest.fixture(scope="module", params=["torch", *_LEVELS])
def column(request: pytest.FixtureRequest) -> Iterator[Column]:
    """Torch's column, and the CPU's on each level."""
    if request.param == "torch":
        yield Column()
        return
    kernels = library.load_level(request.param)
    with _two_threads(kernels):
        yield Column(kernels)


@contextlib.contextmanager
def _two_threads(kernels: library.KernelLibrary) -> Iterator[None]:
    """Tests of other modules get back what they had: a thread that waits for another spins, which costs much where
    tests run beside each other."""
    before = kernels.num_threads()
    kernels.set_num_threads(2)
    yield
    kernels.set_num_threads(before)
