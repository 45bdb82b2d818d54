"""Residual connections: how a layer's two sublayers, attention and feed-forward, are added to the residual stream x."""

from collections.abc import Callable
from typing import Protocol

import torch

from models.architecture.layer import LayerSpec, NormPlacement
from models.kernels.ops import JoinRows, Operations
from models.kernels.row_input import IDENTITY, Prologue
from models.layers.norm import Norm

# Whether a sublayer has a norm of its input, and one of its output.
NORMS_OF_SUBLAYER = {
    NormPlacement.PRE: (True, False),
    NormPlacement.POST: (False, True),
    NormPlacement.SANDWICH: (True, True),
    NormPlacement.AFTER_SUM: (True, False),
}

# (rows, norm of its input, residual or None) -> [T, hidden]; the residual is used up. Other arguments are bound.
Sublayer = Callable[[torch.Tensor, Prologue, torch.Tensor | None], torch.Tensor]


class Residual(Protocol):
    def __call__(self, x: torch.Tensor, sublayer: Sublayer) -> torch.Tensor:
        """Return the residual stream after the sublayer: [T, hidden]. x is used up."""


class AddResidual:
    """x + f(norm(x)): the sublayer's last matrix adds to x, so that native kernels compute all of it."""

    def __init__(self, norm: Prologue) -> None:
        self._norm = norm

    def __call__(self, x: torch.Tensor, sublayer: Sublayer) -> torch.Tensor:
        return sublayer(x, self._norm, x)


def skip_sublayer(x: torch.Tensor, sublayer: Sublayer) -> torch.Tensor:  # noqa: ARG001 (a Residual)
    """Return x without the sublayer."""
    return x


class AddScaled:
    """skip * x + scale * post_norm(f(norm(x))); each part is optional."""

    def __init__(
        self, norm: Prologue, post_norm: Norm | None, join_rows: JoinRows, *, sublayer_scale: float, skip_scale: float
    ) -> None:
        self._norm = norm
        self._join_rows = join_rows
        self._post_norm = post_norm or IDENTITY
        self._sublayer_scale = sublayer_scale
        self._skip_scale = skip_scale

    def __call__(self, x: torch.Tensor, sublayer: Sublayer) -> torch.Tensor:
        y = sublayer(x, self._norm, None)
        return self._join_rows(x, y, self._post_norm, skip=self._skip_scale, scale=self._sublayer_scale)


class AddAndNorm:
    """norm(skip * x + f(x))."""

    def __init__(self, norm: Norm, join_rows: JoinRows, *, skip_scale: float) -> None:
        self._norm = norm
        self._join_rows = join_rows
        self._skip_scale = skip_scale

    def __call__(self, x: torch.Tensor, sublayer: Sublayer) -> torch.Tensor:
        y = sublayer(x, IDENTITY, None)
        return self._join_rows(x, y, self._norm, skip=self._skip_scale, norms_sum=True)


def make_residual(
    spec: LayerSpec, norm: Norm | None, post_norm: Norm | None, hidden_size: int, ops: Operations
) -> Residual:
    """Make the residual connection of a sublayer. norm, post_norm: its norms, if the placement has them."""
    join_rows = ops.join_rows(hidden_size)
    if spec.placement is NormPlacement.AFTER_SUM:
        assert norm is not None
        assert spec.sublayer_scale == 1.0
        return AddAndNorm(norm, join_rows, skip_scale=spec.skip_scale)
    if post_norm is None and spec.sublayer_scale == spec.skip_scale == 1.0:
        return AddResidual(norm or IDENTITY)
    return AddScaled(
        norm or IDENTITY, post_norm, join_rows, sublayer_scale=spec.sublayer_scale, skip_scale=spec.skip_scale
    )
