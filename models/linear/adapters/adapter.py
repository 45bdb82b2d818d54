"""Adapter: low-rank changes to linear layers (Hu et al. 2021), from one fine-tuning of a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class LowRankPair:
    """A change of some outputs of a layer: scale * b (a x) + bias is added to outputs first .. first + len(b) - 1.

    gain: of DoRA (Liu et al. 2024): the rows of W + scale * b a, times these numbers, replace those of W, so that their
    lengths are `magnitude`, as in the file. In an embedding, `a` has a column for each id, and scale * b a[:, id] is
    added to a row of the table.
    """

    first: int
    a: torch.Tensor  # [r, in]
    b: torch.Tensor  # [rows, r]
    scale: float
    bias: torch.Tensor | None = None  # [rows]
    magnitude: torch.Tensor | None = None  # [rows]; not None if gain is not
    gain: torch.Tensor | None = None  # [rows] fp32

    @property
    def rank(self) -> int:
        return len(self.a)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield the tensors of the file; `gain` is computed with the model's weights."""
        yield from (tensor for tensor in (self.a, self.b, self.bias, self.magnitude) if tensor is not None)


@dataclass(frozen=True, slots=True, eq=False)
class LayerAdapter:
    """The pairs of one layer, at most one for each output; or a weight [out, in] that replaces the layer's own."""

    pairs: tuple[LowRankPair, ...] = ()
    weight: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return max((pair.rank for pair in self.pairs), default=0)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield the tensors of the file."""
        for pair in self.pairs:
            yield from pair.tensors()
        if self.weight is not None:
            yield self.weight


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter as it was read: on the CPU, in the file's dtype, its rows in the decoder's order.

    digest: 32 bytes, of everything that decides results, so that two adapters with one digest compute the same. layers:
    by the decoder's module; "embed" is the look-up of tokens, "head" the output layer, also where that is the same
    table. targets: the tensors of the base model that the adapter changes, by their names in the file. base_model: the
    file's name of the model that the adapter was made for; "" without one.
    """

    digest: bytes
    rank: int  # the largest of a pair
    alpha: float  # the most frequent one, if pairs have their own
    targets: tuple[str, ...]
    num_bytes: int
    base_model: str
    layers: Mapping[str, LayerAdapter]
