"""Top-k, top-p and min-p sampling in one step, which keeps tokens by thresholds on their logits.

Ties are kept or dropped together, and the kept tokens are listed in order of id. So the result depends neither on how a
sort breaks ties nor on how many candidates other rows of the batch need.
"""

from dataclasses import dataclass

import torch

_WINDOW = 256  # candidates looked at first; most nuclei are smaller, and a full sort costs far more


@dataclass(frozen=True, slots=True)
class TruncationParams:
    """Sampling limits of each row. top_k: [L] int64, 0 is off; top_p: [L] fp64, 1 is off; min_p: [L] fp64, 0 is off."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor


def truncate(logits: torch.Tensor, params: TruncationParams) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's candidate tokens after top-k, then top-p among those, then min-p, with weights to sample by.

    logits: [L, V] fp32, temperature already applied. Returns (token ids [L, C] int64, ascending in each row, weights
    [L, C] fp64, 0 for tokens that are cut). The weights are proportional to the probabilities.
    """
    vocab_size = logits.shape[-1]
    log_total = torch.logsumexp(logits, dim=-1, keepdim=True)
    width = min(vocab_size, max(_WINDOW, int(params.top_k.max()) + 1))
    while True:
        values, ids = torch.topk(logits, width, dim=-1)  # [L, width], descending
        weights = (values - log_total).double().exp()
        threshold = _smallest_survivor(values, weights, params)
        # The window suffices if every row's smallest survivor lies above the window's last value: then no equal
        # value can lie outside.
        if width == vocab_size or bool((threshold.squeeze(-1) > values[:, -1]).all()):
            break
        width = min(vocab_size, width * 16)
    weights = torch.where(values >= threshold, weights, 0.0)
    ids, order = ids.sort(dim=-1)
    return ids, weights.gather(-1, order)


def all_weights(logits: torch.Tensor, params: TruncationParams | None) -> torch.Tensor:
    """Return the weights that `truncate` gives, for the whole vocabulary in order of id: [L, V] fp64. Takes longer, but
    the host reads nothing. params: None truncates no row."""
    log_total = torch.logsumexp(logits, dim=-1, keepdim=True)
    weights = (logits - log_total).double().exp()
    if params is None:
        return weights
    values = logits.sort(dim=-1, descending=True).values
    threshold = _smallest_survivor(values, (values - log_total).double().exp(), params)
    return torch.where(logits >= threshold, weights, 0.0)


def _smallest_survivor(values: torch.Tensor, weights: torch.Tensor, params: TruncationParams) -> torch.Tensor:
    """Return each row's smallest logit to keep: [L, 1]. values: logits, weights: probabilities, [L, C] descending."""
    width = values.shape[-1]
    rank = torch.arange(width, device=values.device)
    k = torch.where(params.top_k > 0, params.top_k, width).clamp(max=width).unsqueeze(-1)
    kth = values.gather(-1, k - 1)
    in_top_k = values >= kth  # by value, so that ties at rank k survive
    top_k_weights = torch.where(in_top_k, weights, 0.0)

    # Without top-k the rest of the vocabulary counts, too: the total is 1, and not the window's sum.
    total = torch.where(params.top_k.unsqueeze(-1) > 0, top_k_weights.sum(dim=-1, keepdim=True), 1.0)
    before = top_k_weights.cumsum(dim=-1) - top_k_weights  # mass above each candidate
    top_p = params.top_p.double().unsqueeze(-1)
    in_nucleus = in_top_k & ((before < top_p * total) | (top_p >= 1.0))
    is_likely = weights >= params.min_p.double().unsqueeze(-1) * weights[:, :1]
    survives = (in_nucleus & is_likely) | (rank == 0)
    last = torch.where(survives, rank, 0).amax(dim=-1, keepdim=True)
    return values.gather(-1, last)
