"""AdapterBank: the adapters of one linear layer, one in each slot, and what they add to the layer's rows."""

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
    """The adapters of one layer by slot. A slot is set between steps; a row without an adapter has slot -1."""

    @property
    def residual_last_slots(self) -> tuple[int, ...]:
        """Slots with a gain (DoRA) that would scale a residual too. It is added after `multiply` to rows with one."""

    def prepare(self, adapter: LayerAdapter, arena: HugePageArena) -> P:
        """What `set` takes. May be called by any thread, also while a step runs.

        arena: memory of this adapter, in all layers.
        """

    def set(self, slot: int, prepared: P | None) -> None:
        """Replace what the slot has. It computes nothing: streams pause for it."""

    def multiply(
        self,
        x: torch.Tensor,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        """As the layer's method's `apply`, with what the adapters of the rows' slots change; slots: [T] int32.

        residual: zero in rows of `residual_last_slots`.
        """


def make_bank(layer: AdaptedLayer, max_slots: int) -> AdapterBank[NativeAdapter] | AdapterBank[TorchAdapter]:
    """The bank for a layer whose weights are loaded."""
    if isinstance(layer.method, NativeLinearMethod):
        return NativeBank(layer, layer.method, max_slots)
    return TorchBank(layer, layer.method.bias_dtype)
