"""Pooler: errors of the device while it computes texts."""

import time
from typing import Any

import pytest
import torch

from engine.pooling.pooler import Pooler
from engine.protocol import PoolingParams, PoolingRequest, PoolingTask
from models.errors import DeviceLostError
from models.system import cuda

TEXT = PoolingRequest(id="a", prompt_ids=[1], params=PoolingParams(task=PoolingTask.EMBED), arrival_s=time.monotonic())


class FailingForward:
    device = torch.device("cuda", 0)

    def __init__(self, message: str) -> None:
        self._message = message

    def states(self, *_: object) -> torch.Tensor:
        raise RuntimeError(self._message)


def _pooler(message: str) -> Pooler:
    unused: Any = None
    forward: Any = FailingForward(message)
    return Pooler(forward, unused, None)


def test_a_device_that_no_longer_answers_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts would fail, one after the other, in an engine that looks healthy."""
    monkeypatch.setattr(cuda, "answers", lambda _: False)
    with pytest.raises(DeviceLostError, match="new in a later version"):
        _pooler("CUDA error: new in a later version").compute([TEXT])


def test_a_shortage_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        _pooler("CUDA out of memory. Tried to allocate 9 bytes").compute([TEXT])
