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
    """One tensor of a layer. Dimension 0 is the output features, so that fused layers load shard by shard."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class LinearLayer(Protocol):
    """A linear layer as the method that stores its weights sees it."""

    in_features: int
    shards: dict[str, tuple[int, int]]  # name -> (first row, rows)
    weight: torch.Tensor  # where the method has a parameter of that name
    bias: torch.Tensor | None

    def rows(self, shard: str | None) -> tuple[int, int]:
        """Return (first, count) of a shard's output rows; None is the whole layer."""

    def register_buffer(self, name: str, tensor: torch.Tensor | None, persistent: bool = True) -> None:
        """Register a tensor that the method stores as a buffer of the module."""


def rows_of_shards(
    layer: LinearLayer, shards: Iterable[str | None], first: int, count: int
) -> Iterator[tuple[str | None, torch.Tensor]]:
    """Yield the shards with some of the rows first .. first + count - 1, and the indices of these rows in the shard."""
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
        """Return the tensors to allocate for a layer before its weights are loaded, without the bias."""
        return ()

    @abstractmethod
    def load(self, layer: LinearLayer, shard: str | None, tensor: StoredTensor, rearrange: Rearrange) -> None:
        """Store the weight of one shard, or of the whole layer (None)."""

    def process_after_loading(self, layer: LinearLayer) -> None:  # noqa: B027 (optional)
        """Make the layer ready for `apply`; called once, after the last `load`."""

    @abstractmethod
    def apply(
        self,
        x: torch.Tensor,
        layer: LinearLayer,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        """Multiply; see Linear.forward."""

    @abstractmethod
    def look_up(self, ids: torch.Tensor, layer: LinearLayer) -> torch.Tensor:
        """Look up rows; see Embedding.look_up."""

    @abstractmethod
    def read_rows(self, layer: LinearLayer, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return rows of the weight, dequantized: [count, in] in `dtype`, fp32 or bf16."""

    @abstractmethod
    def format_of(self, shard: str | None) -> str:
        """Return the format of a shard's stored weight, for the operator: "bf16", "q4_k"."""
