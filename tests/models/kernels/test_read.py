"""The C++ kernel that reads memory: that it reads all of it."""

import pytest
import torch

from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.read import sum_words


@pytest.mark.parametrize("count", [0, 5, 8192, 3 * 8192 + 77])
def test_every_word_is_read_once(kernels: KernelLibrary, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**63), 2**63 - 1, (count,), dtype=torch.int64, generator=generator)

    assert sum_words(words, library=kernels) == words.sum()
