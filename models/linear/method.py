"""LinearMethod: how a linear layer's weights are stored and multiplied."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from models.checkpoints.base import StoredTensor
from models.kernels.row_input import Prologue

# Puts a checkpoint's rows into the decoder's order; see families/transforms.py.
Rearrange = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """A tensor of a linear layer. Dimension 0 is the output features, so that fused layers load shard by shard."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class LinearLayer(Protocol):
    """The interface of a linear layer that its LinearMethod uses."""

    in_features: int
    shards: dict[str, tuple[int, int]]  # name -> (first row, rows)
    weight: torch.Tensor  # where the method has a parameter of that name
    bias: torch.Tensor | None

    def rows(self, shard: str | None) -> tuple[int, int]:
        """Return (first, count) of a shard's output rows; of the whole layer for None."""

    def register_buffer(self, name: str, tensor: torch.Tensor | None, persistent: bool = True) -> None:
        """Register a tensor that the method stores as a buffer of the module."""


def rows_of_shards(
    layer: LinearLayer, shards: Iterable[str | None], first: int, count: int
) -> Iterator[tuple[str | None, torch.Tensor]]:
    """Yield the shards that have some of rows first .. first + count - 1, with these rows' indices within the shard."""
    for shard in shards:
        start, size = layer.rows(shard)
        begin, end = max(first, start), min(first + count, start + size)
        if begin < end:
            yield shard, torch.arange(begin - start, end - start)


class LinearMethod(ABC):
    """A way to store and multiply the weights of linear layers."""

    name: str
    bias_dtype: torch.dtype
    packed: object | None = None  # the loaded weights in a layout of kernels; None if the method packs none

    def parameters(self, in_features: int, out_features: int) -> tuple[ParameterSpec, ...]:  # noqa: ARG002
        """Return the parameters to allocate for a layer before its weights are loaded, except the bias."""
        return ()

    @abstractmethod
    def load(self, layer: LinearLayer, shard: str | None, tensor: StoredTensor, rearrange: Rearrange) -> None:
        """Store the weight of a shard (None: the whole layer). rearrange: moves rows to the decoder's order."""

    def process_after_loading(self, layer: LinearLayer) -> None:  # noqa: B027 (optional)
        """Prepare the layer for `apply`; called once, after the last `load`."""

    @abstractmethod
    def apply(
        self,
        x: torch.Tensor,
        layer: LinearLayer,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        """Return W prologue(x) + b (+ residual, overwritten): [T, out] in `out_dtype`, else the residual's or x's."""

    @abstractmethod
    def look_up(self, ids: torch.Tensor, layer: LinearLayer) -> torch.Tensor:
        """Return the embeddings [T, size] of `ids` [T] int64, in the method's dtype, bf16 or fp32."""

    @abstractmethod
    def read_rows(self, layer: LinearLayer, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows first .. first + count - 1 of the weight, dequantized: [count, in] in `dtype`, fp32 or bf16."""

    @abstractmethod
    def format_of(self, shard: str | None) -> str:
        """Return the name of a shard's stored format, for start-up notes: "bf16", "q4_k"."""
