"""The tiny model of whole jobs, and the threads that they leave."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.kernels.cpu.library import set_num_threads
from tests.helpers.checkpoints import llama_config, random_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(llama_config()).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Jobs have one: several would wait for each other at every operator, longer than these take."""
    before = torch.get_num_threads()
    yield
    set_num_threads(before)
