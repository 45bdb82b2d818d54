"""How a layer's two branches, attention and feed-forward, join the stream x that runs through the layers."""

from collections.abc import Callable
from typing import Protocol

import torch

from models.kernels.rows import join_rows, takes_rows
from models.layers.norm import Norm
from models.linear.prologue import IDENTITY, Prologue
from models.spec import LayerSpec, NormPlacement

# Whether a branch has a norm of the stream, and one of what it gives.
NORMS_OF_BRANCH = {
    NormPlacement.PRE: (True, False),
    NormPlacement.POST: (False, True),
    NormPlacement.SANDWICH: (True, True),
    NormPlacement.AFTER_SUM: (True, False),
}

# (rows, the norm before, what the result is added to or None) -> [T, hidden]; the third is used up.
Branch = Callable[[torch.Tensor, Prologue, torch.Tensor | None], torch.Tensor]


class Join(Protocol):
    def __call__(self, x: torch.Tensor, branch: Branch) -> torch.Tensor:
        """The stream after the branch: [T, hidden]. x is used up."""


class JoinAdded:
    """x + f(norm(x)): the branch's last matrix adds to x, so that native kernels do it all."""

    def __init__(self, norm: Norm) -> None:
        self._norm = norm

    def __call__(self, x: torch.Tensor, branch: Branch) -> torch.Tensor:
        return branch(x, self._norm, x)


def pass_by(x: torch.Tensor, branch: Branch) -> torch.Tensor:  # noqa: ARG001 (a Join)
    """x without the branch."""
    return x


class JoinScaled:
    """skip * x + scale * post_norm(f(norm(x))), each part if there is one."""

    def __init__(self, norm: Prologue, post_norm: Norm | None, *, branch_scale: float, skip_scale: float) -> None:
        self._norm = norm
        self._post_norm = post_norm or IDENTITY
        self._branch_scale = branch_scale
        self._skip_scale = skip_scale

    def __call__(self, x: torch.Tensor, branch: Branch) -> torch.Tensor:
        y = branch(x, self._norm, None)
        if takes_rows(x):
            return join_rows(x, y, self._post_norm.row_input, skip=self._skip_scale, scale=self._branch_scale)
        y = self._post_norm(y)
        skipped = x if self._skip_scale == 1.0 else x.mul_(self._skip_scale)
        return skipped.add_(y, alpha=self._branch_scale)


class JoinNormed:
    """norm(skip * x + f(x))."""

    def __init__(self, norm: Norm, *, skip_scale: float) -> None:
        self._norm = norm
        self._skip_scale = skip_scale

    def __call__(self, x: torch.Tensor, branch: Branch) -> torch.Tensor:
        y = branch(x, IDENTITY, None)
        if takes_rows(x):
            return join_rows(x, y, self._norm.row_input, skip=self._skip_scale, norms_sum=True)
        return self._norm(y.add_(x, alpha=self._skip_scale))


def make_join(spec: LayerSpec, norm: Norm | None, post_norm: Norm | None) -> Join:
    """norm, post_norm: of the branch, where the placement has them."""
    if spec.placement is NormPlacement.AFTER_SUM:
        assert norm is not None
        assert spec.branch_scale == 1.0
        return JoinNormed(norm, skip_scale=spec.skip_scale)
    if norm is not None and post_norm is None and spec.branch_scale == spec.skip_scale == 1.0:
        return JoinAdded(norm)
    return JoinScaled(norm or IDENTITY, post_norm, branch_scale=spec.branch_scale, skip_scale=spec.skip_scale)
