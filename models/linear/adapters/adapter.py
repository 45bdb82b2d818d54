"""Adapter: low-rank changes to linear layers (Hu et al. 2021), of one fine-tuning of a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class LowRankPair:
    """What is added to some outputs of a layer: scale * b (a x) + bias, for output rows first .. first + len(b) - 1.

    gain: of DoRA (Liu et al. 2024): the rows of W + scale * b a, times these numbers, take the place of W's, so that
    their lengths are `magnitude`, as in the file. Of an embedding, `a` has a column for each id, and a row of the table
    gets scale * b a[:, id].
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
        yield from self.given()
        if self.gain is not None:
            yield self.gain

    def given(self) -> Iterator[torch.Tensor]:
        """Those of the file; what is computed with the model's weights is not of them."""
        yield from (tensor for tensor in (self.a, self.b, self.bias, self.magnitude) if tensor is not None)


@dataclass(frozen=True, slots=True, eq=False)
class LayerAdapter:
    """The pairs of one layer, at most one for each output; or a weight [out, in] in the place of the layer's own."""

    pairs: tuple[LowRankPair, ...] = ()
    weight: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return max((pair.rank for pair in self.pairs), default=0)

    def tensors(self) -> Iterator[torch.Tensor]:
        for pair in self.pairs:
            yield from pair.tensors()
        if self.weight is not None:
            yield self.weight

    def given(self) -> Iterator[torch.Tensor]:
        """Those of the file."""
        for pair in self.pairs:
            yield from pair.given()
        if self.weight is not None:
            yield self.weight


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter as it was read: on the CPU, in the file's dtype, its rows in the decoder's order.

    digest: 32 bytes, of all that decides results, so that two adapters with one digest compute the same. layers: by the
    decoder's module; "embed" is the look-up of tokens, "head" the output layer, also where that is the same table.
    targets: the tensors of the base model that it changes, by their names in the file. base_model: what the file calls
    the model that it was made for; "" if it does not say.
    """

    digest: bytes
    rank: int  # the largest of a pair
    alpha: float  # the usual one, where pairs have their own
    targets: tuple[str, ...]
    num_bytes: int
    base_model: str
    layers: Mapping[str, LayerAdapter]
