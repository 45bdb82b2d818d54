"""served: a decoder in training computes as in serving for a while, and its pairs by the kernels of adapters."""

import contextlib
from collections.abc import Iterator
from typing import Any

from models.kernels.cpu.arena import HugePageArena
from models.linear.adapter_bank import AdapterBank, make_bank
from models.training.lora import Lora


@contextlib.contextmanager
def served(lora: Lora) -> Iterator[None]:
    """Without gradients, and for the pairs as they are now, which rows have whose adapter slot is 0, if `lora` is
    adapted."""
    arena = HugePageArena()
    layers = list(lora.layers())
    try:
        for layer, method in layers:
            layer.method = method.frozen
            if method.adapter is not None and lora.is_adapted:
                bank: AdapterBank[Any] = make_bank(layer, 1)
                bank.set(0, bank.prepare(method.adapter.as_served(), arena))
                layer.adapters = bank
        yield
    finally:
        for layer, method in layers:
            layer.method, layer.adapters = method, None
