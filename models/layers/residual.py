"""Residual connections: how a layer's two sublayers, attention and feed-forward, are added to the residual stream x."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from models.architecture.layer import LayerSpec, NormPlacement
from models.kernels.ops import Operations
from models.kernels.row_input import IDENTITY, Prologue
from models.layers.norm import Norm
from models.linear.linear import empty_parameter

# Whether a sublayer has a norm of its input, and one of its output.
NORMS_OF_SUBLAYER = {
    NormPlacement.PRE: (True, False),
    NormPlacement.POST: (False, True),
    NormPlacement.SANDWICH: (True, True),
    NormPlacement.AFTER_SUM: (True, False),
    NormPlacement.BEFORE_SKIP: (True, False),
}

# (rows, norm of its input, residual or None) -> [T, hidden]; the residual is overwritten. Other arguments are bound.
Sublayer = Callable[[torch.Tensor, Prologue, torch.Tensor | None], torch.Tensor]
# (x [T, hidden], which may be overwritten, sublayer) -> the residual stream after the sublayer, [T, hidden].
Residual = Callable[[torch.Tensor, Sublayer], torch.Tensor]


class OutputScale(nn.Module):
    """A learned factor of a layer's output, one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = empty_parameter((1,), torch.float32)

    @cached_property
    def factor(self) -> float:
        """The factor, as kernels take it. Read after loading."""
        return float(self.weight)


def skip_sublayer(x: torch.Tensor, sublayer: Sublayer) -> torch.Tensor:  # noqa: ARG001 (a Residual)
    """Return x unchanged: the Residual of a sublayer that is skipped."""
    return x


def make_residual(
    spec: LayerSpec,
    norm: Norm | None,
    post_norm: Norm | None,
    hidden_size: int,
    ops: Operations,
    output_scale: OutputScale | None = None,
) -> Residual:
    """Return the function that adds a sublayer to the residual stream.

    norm: applied to the sublayer's input, to the sum if the placement is AFTER_SUM, or to x. post_norm: applied to the
    sublayer's output. output_scale: multiplies the sum.
    """
    before, after = norm or IDENTITY, post_norm or IDENTITY
    skip, scale = spec.skip_scale, spec.sublayer_scale
    join_rows = ops.join_rows(hidden_size)
    if spec.placement is NormPlacement.AFTER_SUM:
        assert scale == 1.0
        assert output_scale is None
        return lambda x, sublayer: join_rows(x, sublayer(x, IDENTITY, None), before, skip=skip, norms_sum=True)
    if spec.placement is NormPlacement.BEFORE_SKIP:
        assert output_scale is None

        def add_to_normed(x: torch.Tensor, sublayer: Sublayer) -> torch.Tensor:
            x = join_rows(x, x, before, scale=0.0, norms_sum=True)
            return join_rows(x, sublayer(x, IDENTITY, None), IDENTITY, skip=skip, scale=scale)

        return add_to_normed
    if output_scale is not None:
        assert scale == skip == 1.0

        def join_scaled(x: torch.Tensor, sublayer: Sublayer) -> torch.Tensor:
            factor = output_scale.factor
            return join_rows(x, sublayer(x, before, None), after, skip=factor, scale=factor)

        return join_scaled
    if post_norm is None and scale == skip == 1.0:
        # The sublayer's last matrix adds to x, so that native kernels compute all of it.
        return lambda x, sublayer: sublayer(x, before, x)
    return lambda x, sublayer: join_rows(x, sublayer(x, before, None), after, skip=skip, scale=scale)
