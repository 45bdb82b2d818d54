"""TrainableAdapter: the trainable LoRA pairs of one linear layer, and the layer's output with them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from models.errors import ModelError
from models.linear.adapters.adapter import LayerAdapter, LowRankPair
from models.training.frozen_weight import FrozenWeight


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Consecutive output rows of a layer, with the part of a pair's matrix B that adds to them."""

    first: int
    count: int
    pair: int
    b: torch.Tensor  # [count, rank]
    order: torch.Tensor  # [count], indices of these rows in PEFT's B


class Pair(NamedTuple):
    """A LoRA pair in PEFT's layout: the rows of B are in the order of transformers' layer."""

    name: str  # of transformers' layer: "model.layers.3.self_attn.q_proj"
    a: torch.Tensor  # [rank, in]
    b: torch.Tensor  # [out, rank]


class TrainableAdapter:
    """The LoRA pairs of one linear layer: several if the layer fuses layers of transformers, such as q, k and v."""

    def __init__(self, names: Sequence[str], a: torch.Tensor, pieces: Sequence[Piece], rank: int, scale: float) -> None:
        """a: the pairs' matrices A, stacked: [pairs * rank, in], fp32. pieces: in the order of the layer's rows."""
        self.names = names
        self._a = a
        self._pieces = pieces
        self._rank = rank
        self._scale = scale

    def product(self, rows: torch.Tensor, weight: FrozenWeight, out_dtype: torch.dtype) -> torch.Tensor:
        """Return the layer's output with the pairs, [T, out] in `out_dtype`, with gradients for rows and pairs."""
        result: torch.Tensor = _Product.apply(
            rows, weight, self, out_dtype, self._a, *(piece.b for piece in self._pieces)
        )
        return result

    def matrices(self) -> Iterator[Pair]:
        """Yield copies of each pair's matrices, in PEFT's layout."""
        for index, name in enumerate(self.names):
            pieces = [piece for piece in self._pieces if piece.pair == index]
            b = torch.empty(sum(piece.count for piece in pieces), self._rank)
            for piece in pieces:
                b[piece.order] = piece.b.detach()
            yield Pair(name, self._a.detach().split(self._rank)[index].clone(), b)

    def set_matrices(self, name: str, a: torch.Tensor, b: torch.Tensor) -> None:
        """Initialize the pair `name` with trained matrices. Raises ModelError if their shapes differ."""
        index = self.names.index(name)
        pieces = [piece for piece in self._pieces if piece.pair == index]
        num_rows = sum(piece.count for piece in pieces)
        rank, columns = self._rank, self._a.shape[1]
        if a.shape != (rank, columns) or b.shape != (num_rows, rank):
            raise ModelError(
                f"the adapter's {name} has shapes {list(a.shape)} and {list(b.shape)}; this model and rank need "
                f"[{rank}, {columns}] and [{num_rows}, {rank}]"
            )
        with torch.no_grad():
            self._a.split(rank)[index].copy_(a)
            for piece in pieces:
                piece.b.copy_(b[piece.order])

    def as_served(self) -> LayerAdapter:
        a = self._a.detach().split(self._rank)
        return LayerAdapter(
            tuple(LowRankPair(piece.first, a[piece.pair], piece.b.detach(), self._scale) for piece in self._pieces)
        )

    def joint_b(self, num_outputs: int, dtype: torch.dtype) -> torch.Tensor:
        """Return scale * B, [num_outputs, pairs * rank]: each pair's B in its own rows and columns, zeros elsewhere."""
        b = torch.zeros(num_outputs, self._a.shape[0], dtype=dtype)
        for rows, columns, piece in self._slices():
            b[rows, columns] = piece.b
        return b.mul_(self._scale)

    def split_b(self, joint: torch.Tensor) -> list[torch.Tensor]:
        """Split the gradient of `joint_b` into each piece's gradient of B, [count, rank] fp32."""
        return [joint[rows, columns].to(torch.float32).mul_(self._scale) for rows, columns, _ in self._slices()]

    def _slices(self) -> Iterator[tuple[slice, slice, Piece]]:
        for piece in self._pieces:
            first = piece.pair * self._rank
            yield slice(piece.first, piece.first + piece.count), slice(first, first + self._rank), piece


class _Product(torch.autograd.Function):
    """The autograd function of `TrainableAdapter.product`.

    Frozen weights are multiplied as in serving, the pairs in the rows' dtype: bf16 takes a fifth of the time of fp32,
    and a gradient is rounded to 8 bits once, before it is added up in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        weight: FrozenWeight,
        adapter: TrainableAdapter,
        out_dtype: torch.dtype,
        a: torch.Tensor,
        *_: torch.Tensor,
    ) -> torch.Tensor:
        y = weight.product(rows, out_dtype)
        a, b = a.to(rows.dtype), adapter.joint_b(y.shape[1], rows.dtype)
        inner = rows @ a.t()  # [T, pairs * rank]
        ctx.weight, ctx.adapter = weight, adapter
        ctx.save_for_backward(rows, inner, a, b)
        return y.addmm_(inner, b.t()) if y.dtype == rows.dtype else y.add_(inner @ b.t())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inner, a, b = ctx.saved_tensors
        of_y = gradients[0].to(rows.dtype)
        of_inner = of_y @ b
        of_rows = None
        if ctx.needs_input_grad[0]:
            of_rows = ctx.weight.times(of_y).to(rows.dtype).addmm_(of_inner, a)
        of_a = (of_inner.t() @ rows).to(torch.float32)
        return of_rows, None, None, None, of_a, *ctx.adapter.split_b(of_y.t() @ inner)
