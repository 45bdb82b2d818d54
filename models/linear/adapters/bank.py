"""AdapterBank: the adapters of one linear layer by slot, and the layer's product with them."""

from typing import Protocol, TypeVar

import torch

from models.kernels.cpu.arena import HugePageArena
from models.kernels.row_input import Prologue
from models.kernels.torch.linear import LinearOperations
from models.linear.adapters.adapter import LayerAdapter
from models.linear.adapters.computed_pair import AdaptedLayer
from models.linear.adapters.native_bank import NativeAdapter, NativeBank
from models.linear.adapters.stacked_bank import StackedAdapter, StackedBank
from models.linear.adapters.torch_bank import TorchAdapter, TorchBank
from models.linear.native import NativeLinearMethod

P = TypeVar("P")


class AdapterBank(Protocol[P]):
    """The adapters of a linear layer by slot, set only between steps; rows without an adapter have slot -1."""

    @property
    def residual_last_slots(self) -> tuple[int, ...]:
        """Slots whose DoRA gain would scale the residual too; the caller adds their rows' residual after `multiply`."""

    @property
    def variant(self) -> object:
        """A value that changes when steps with adapters need other calls: recordings of such steps are then invalid."""

    def prepare(self, adapter: LayerAdapter, arena: HugePageArena) -> P:
        """Convert an adapter for `set`. May run on any thread, also during a step.

        arena: allocates this adapter's memory, for all layers.
        """

    def set(self, slot: int, prepared: P | None) -> None:
        """Replace the adapter in a slot; None empties the slot. Computes nothing, since generation waits for it."""

    def multiply(
        self,
        x: torch.Tensor,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        """Return the layer's output (+ residual) with each row's adapter: [T, out]. slots: [T] int32, -1 for none.

        residual: must be zero in rows of `residual_last_slots`.
        """


def make_bank(
    layer: AdaptedLayer, max_slots: int, max_rank: int = 0, operations: LinearOperations | None = None
) -> AdapterBank[NativeAdapter] | AdapterBank[TorchAdapter] | AdapterBank[StackedAdapter]:
    """Make the bank for a layer whose weights are loaded. operations: the device's; torch's by default."""
    if isinstance(layer.method, NativeLinearMethod):
        return NativeBank(layer, layer.method, max_slots)
    if operations is not None and operations.has_adapter_slots:
        return StackedBank(layer, max_slots, max_rank, operations)
    return TorchBank(layer, layer.method.bias_dtype)
