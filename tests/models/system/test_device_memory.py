"""Memory of a CUDA device for weights, with injected figures."""

import pytest
import torch

from models.errors import ModelError
from models.system.memory import free_memory_bytes, require_memory
from tests.helpers.fake_cuda import H100, install_devices


def test_weights_that_do_not_fit_on_a_device_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install_devices(monkeypatch, [H100, H100], free_bytes=[70 << 30, 3 << 30])
    first, second = (torch.device("cuda", index) for index in range(2))

    require_memory(16 << 30, first)
    with pytest.raises(ModelError, match=r"need 16.00 GiB and cuda:1 has 3.00 GiB free.*or another --device"):
        require_memory(16 << 30, second)
    assert free_memory_bytes(second) == 3 << 30
