"""PoolingScheme: how the hidden states of a text's tokens become its vector, and the prompts put before texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from models.architecture.pooling import TokenPooling


@dataclass(frozen=True, slots=True, eq=False)
class DenseProjection:
    """A dense layer after pooling: activation(W x + b), in fp32. weight: [out, in]."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    has_tanh: bool

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return torch.tanh(y) if self.has_tanh else y


@dataclass(frozen=True, slots=True, eq=False)
class PoolingScheme:
    """Poolings whose vectors are concatenated, then dense layers, then perhaps a normalization to length 1."""

    poolings: tuple[TokenPooling, ...]
    projections: tuple[DenseProjection, ...] = ()
    normalizes: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_tokens: int | None = None  # of a text with its special tokens; None: the model's limit

    def dimensions(self, hidden_size: int) -> int:
        if self.projections:
            return len(self.projections[-1].weight)
        return hidden_size * len(self.poolings)

    def pool(self, states: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Pool the texts' hidden states [T, hidden], fp32, to vectors [S, dimensions], not yet normalized."""
        pooled = torch.cat([pool_tokens(states, lengths, pooling) for pooling in self.poolings], dim=1)
        for projection in self.projections:
            pooled = projection(pooled)
        return pooled

    @property
    def single_token(self) -> TokenPooling | None:
        """CLS or LAST, if pooling uses only that token's hidden state, else None."""
        (first, *others) = self.poolings
        return first if not others and first in (TokenPooling.CLS, TokenPooling.LAST) else None

    def describe(self) -> str:
        """Return a description for start-up notes: "mean", "cls + max, dense to 256"."""
        text = " + ".join(pooling.name.lower() for pooling in self.poolings)
        for projection in self.projections:
            text += f", dense to {len(projection.weight)}"
        return text


def pool_tokens(states: torch.Tensor, lengths: Sequence[int], pooling: TokenPooling) -> torch.Tensor:
    """Pool states [T, D], fp32, of consecutive texts to vectors [S, D]. lengths: tokens of each text, at least 1."""
    counts = torch.tensor(lengths, device=states.device)
    ends = counts.cumsum(0)
    match pooling:
        case TokenPooling.CLS:
            return states[ends - counts]
        case TokenPooling.LAST:
            return states[ends - 1]
        case TokenPooling.MAX:
            return torch.stack([text.amax(dim=0) for text in states.split(list(lengths))])
        case TokenPooling.MEAN:
            return _sums(states, counts) / counts.unsqueeze(1)
        case TokenPooling.MEAN_SQRT_LENGTH:
            return _sums(states, counts) / counts.unsqueeze(1).sqrt()
        case TokenPooling.WEIGHTED_MEAN:
            weights = torch.cat([torch.arange(1, length + 1, device=states.device) for length in lengths])
            totals = counts * (counts + 1) / 2
            return _sums(states * weights.unsqueeze(1), counts) / totals.unsqueeze(1)


def _sums(states: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return torch.segment_reduce(states, "sum", lengths=counts, axis=0)
