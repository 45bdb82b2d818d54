"""What tests of benchmarks share: the number of threads is as before when one ends."""

from collections.abc import Iterator

import pytest
import torch

from models.kernels.cpu.library import set_num_threads


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    """Benchmarks compute in this process with all cores; with several threads, torch's products repeat no bits."""
    num_threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != num_threads:
        set_num_threads(num_threads)
