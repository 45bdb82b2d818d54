"""pool_tokens: one vector of each text, from the states of its tokens."""

from collections.abc import Sequence

import torch

from models.architecture.pooling import TokenPooling


def pool_tokens(states: torch.Tensor, lengths: Sequence[int], pooling: TokenPooling) -> torch.Tensor:
    """states [T, D], fp32, text after text; lengths: of the texts, none 0. Returns [S, D]."""
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
