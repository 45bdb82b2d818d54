"""PoolingScheme: what becomes of the states of a text's tokens, and with which prompts such a model is used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from models.architecture.pooling import TokenPooling
from models.pooling.tokens import pool_tokens


@dataclass(frozen=True, slots=True, eq=False)
class DenseProjection:
    """A layer behind the pooling: activation(W x + b), in fp32. weight [out, in]."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    has_tanh: bool

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return torch.tanh(y) if self.has_tanh else y


@dataclass(frozen=True, slots=True, eq=False)
class PoolingScheme:
    """poolings: their vectors are put side by side; then come the projections, and then the length of 1, if
    `normalizes`."""

    poolings: tuple[TokenPooling, ...]
    projections: tuple[DenseProjection, ...] = ()
    normalizes: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_tokens: int | None = None  # of a text, its special tokens included; None: as many as the model takes

    def dimensions(self, hidden_size: int) -> int:
        if self.projections:
            return len(self.projections[-1].weight)
        return hidden_size * len(self.poolings)

    def pool(self, states: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """states [T, hidden], fp32, of the texts' tokens -> [S, dimensions], not normalized."""
        pooled = torch.cat([pool_tokens(states, lengths, pooling) for pooling in self.poolings], dim=1)
        for projection in self.projections:
            pooled = projection(pooled)
        return pooled

    @property
    def only_row(self) -> TokenPooling | None:
        """CLS or LAST, if no other token's last state is used."""
        (first, *others) = self.poolings
        return first if not others and first in (TokenPooling.CLS, TokenPooling.LAST) else None

    def describe(self) -> str:
        """For the operator: "mean", "cls + max, dense to 256"."""
        text = " + ".join(pooling.name.lower() for pooling in self.poolings)
        for projection in self.projections:
            text += f", dense to {len(projection.weight)}"
        return text
