"""sum_words: reads memory on all threads (C++, src/runtime), for checksums and to measure the memory bandwidth."""

import torch

from models.kernels.cpu.library import KernelLibrary, required_library


def sum_words(words: torch.Tensor, *, library: KernelLibrary | None = None) -> int:
    """Return the sum of 64-bit `words` ([N] int64, contiguous), modulo 2^64."""
    assert words.dtype == torch.int64
    assert words.is_contiguous()
    total: int = (library or required_library()).sum_words(words.data_ptr(), len(words))
    return total
