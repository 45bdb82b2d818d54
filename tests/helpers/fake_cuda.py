"""Answers about CUDA devices that are not there, in place of models/system/cuda.py's."""

from collections.abc import Sequence

import pytest
import torch

from models.system import cuda
from models.system.cuda import CudaDevice

H100 = CudaDevice("NVIDIA H100 80GB HBM3", (9, 0), 80 << 30, 132)
T4 = CudaDevice("Tesla T4", (7, 5), 16 << 30, 40)


def install_devices(
    monkeypatch: pytest.MonkeyPatch,
    devices: Sequence[CudaDevice],
    *,
    free_bytes: Sequence[int] = (),
    error: str | None = None,
) -> list[int]:
    """Answer for these devices. free_bytes: of each; by default all. Returns the devices made current, as they come."""
    free = free_bytes or [device.total_bytes for device in devices]
    current: list[int] = []

    def memory_bytes(device: torch.device) -> tuple[int, int]:
        index = device.index or 0
        return free[index], devices[index].total_bytes

    monkeypatch.setattr(cuda, "cuda_build", lambda: "13.0")
    monkeypatch.setattr(cuda, "start_error", lambda: error)
    monkeypatch.setattr(cuda, "device_count", lambda: len(devices))
    monkeypatch.setattr(cuda, "device_properties", devices.__getitem__)
    monkeypatch.setattr(cuda, "make_current", current.append)
    monkeypatch.setattr(cuda, "memory_bytes", memory_bytes)
    return current
