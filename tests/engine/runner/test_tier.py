"""Blocks that are copied out of the KV cache and into it: memory that runs out meanwhile is named."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.runner.runner import TorchRunner
from engine.scheduling.kv.moves import BlockLoad, BlockSave


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), MemoryError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"), MemoryError),
        (RuntimeError("expected a tensor"), RuntimeError),
    ],
)
def test_torchs_errors_of_memory_are_memory_errors_when_blocks_are_moved(
    error: Exception, expected: type[Exception]
) -> None:
    def fail(*_: object) -> bytes:
        raise error

    model = SimpleNamespace(device=torch.device("cpu"))
    runner: Any = SimpleNamespace(_model=model, _copy=SimpleNamespace(read=fail, write=fail))
    for move in (
        lambda: TorchRunner.save(runner, [BlockSave(0, 0, b"")]),
        lambda: TorchRunner.load(runner, [BlockLoad(0, 0, b"")]),
    ):
        with pytest.raises(expected) as raised:
            move()
        assert type(raised.value) is expected
