"""Adapter: a LoRA adapter as read from its files (Hu et al. 2021)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class LowRankPair:
    """A LoRA pair (A, B): adds scale * (b (a x) + bias) to outputs first .. first + len(b) - 1 of a layer.

    magnitude: for DoRA (Liu et al. 2024), the L2 norms to which the rows of W + scale * b a are scaled. gain: the
    factors by which they are scaled. In an embedding, `a` has a column for each id, and scale * b a[:, id] is added to
    the looked-up row.
    """

    first: int
    a: torch.Tensor  # [r, in]
    b: torch.Tensor  # [rows, r]
    scale: float
    bias: torch.Tensor | None = None  # [rows]
    magnitude: torch.Tensor | None = None  # [rows]; given if `gain` is
    gain: torch.Tensor | None = None  # [rows] fp32

    @property
    def rank(self) -> int:
        return len(self.a)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield the tensors read from the file: all except `gain`, which is computed with the model's weights."""
        yield from (tensor for tensor in (self.a, self.b, self.bias, self.magnitude) if tensor is not None)


@dataclass(frozen=True, slots=True, eq=False)
class LayerAdapter:
    """An adapter's part for one layer: LoRA pairs for distinct outputs, or a weight [out, in] to replace W."""

    pairs: tuple[LowRankPair, ...] = ()
    weight: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return max((pair.rank for pair in self.pairs), default=0)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield the tensors that are read from the adapter's file."""
        for pair in self.pairs:
            yield from pair.tensors()
        if self.weight is not None:
            yield self.weight


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter as read from its files: on the CPU, in the file's dtype, its rows in the decoder's order.

    digest: 32-byte hash of everything that decides results; adapters with the same digest compute the same. layers:
    parts by name of the module; "embed" adapts the look-up of tokens, "head" the output layer, also if the two are
    tied. targets: names of the base model's tensors that the adapter changes, as in the file. base_model: the name
    of the base model in the file, or "".
    """

    digest: bytes
    rank: int  # the largest rank of a pair
    alpha: float  # the most frequent alpha, if it differs between pairs
    targets: tuple[str, ...]
    num_bytes: int
    base_model: str
    layers: Mapping[str, LayerAdapter]
