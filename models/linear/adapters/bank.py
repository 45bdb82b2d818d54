"""AdapterBank: the adapters of one linear layer, one in each slot, and their part of the layer's product."""

from typing import Protocol, TypeVar

import torch

from models.kernels.cpu.arena import HugePageArena
from models.kernels.row_input import Prologue
from models.linear.adapters.adapter import LayerAdapter
from models.linear.adapters.computed_pair import AdaptedLayer
from models.linear.adapters.native_bank import NativeAdapter, NativeBank
from models.linear.adapters.torch_bank import TorchAdapter, TorchBank
from models.linear.native import NativeLinearMethod

P = TypeVar("P")


class AdapterBank(Protocol[P]):
    """The adapters of one layer by slot. Slots are set between steps; a row without an adapter has slot -1."""

    @property
    def residual_last_slots(self) -> tuple[int, ...]:
        """Slots whose gain (DoRA) would scale a residual too: the residual of their rows is added after `multiply`."""

    def prepare(self, adapter: LayerAdapter, arena: HugePageArena) -> P:
        """Return the adapter as `set` takes it. May run on any thread, also during a step.

        arena: memory of this adapter, in all layers.
        """

    def set(self, slot: int, prepared: P | None) -> None:
        """Replace the adapter of a slot; None removes it. Computes nothing, since streams pause for it."""

    def multiply(
        self,
        x: torch.Tensor,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        """Multiply like `LinearMethod.apply` of the layer, and apply the adapters of the rows' slots, [T] int32.

        residual: zero in rows of `residual_last_slots`.
        """


def make_bank(layer: AdaptedLayer, max_slots: int) -> AdapterBank[NativeAdapter] | AdapterBank[TorchAdapter]:
    """Make the bank for a layer whose weights are loaded."""
    if isinstance(layer.method, NativeLinearMethod):
        return NativeBank(layer, layer.method, max_slots)
    return TorchBank(layer, layer.method.bias_dtype)
