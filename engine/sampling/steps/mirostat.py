"""Mirostat: truncation that steers the surprise of the text to a target (Basu et al. 2020).

A limit mu, in bits, is updated after each sampled token: mu' = mu - eta * (surprise - tau); it starts at 2 tau.

Version 1 keeps the k likeliest tokens, where k is such that a Zipf distribution with the row's exponent has surprise
mu; the exponent is estimated from the 100 likeliest tokens. A token's surprise is under the model's distribution, as in
the paper.

Version 2 keeps the tokens whose surprise is at most mu. A token's surprise is under the truncated distribution, as in
llama.cpp.

mu at a token depends on the tokens before it and their logits, so the rows of a draft are drawn in sequence, up to the
first that differs from the draft. Tokens that a grammar forced without a row count as surprise 0.
"""

import math
from itertools import pairwise

import torch

from engine.protocol.sampling_params import MirostatParams
from engine.sampling.draw import uniform
from engine.sampling.rows import LogitsRow
from models.kernels.torch.draw import draw

_NUM_ESTIMATING = 100  # tokens from which the exponent is estimated


class Mirostat:
    """Samples with mirostat. Keeps each sequence's history of mu until `release`.

    Invariant: entry i of a sequence's list is mu at its output token i; the last entry is mu at the next token.
    """

    def __init__(self) -> None:
        self._mus: dict[str, list[float]] = {}

    def release(self, sequence_id: str) -> None:
        self._mus.pop(sequence_id, None)

    def sample(self, logits: torch.Tensor, rows: list[LogitsRow]) -> list[int]:
        """Return the tokens of one sequence that uses mirostat: the accepted tokens of its draft, and one more.

        rows: all rows of this sequence. logits: [len(rows), V] fp32, edited.
        """
        first = rows[0]
        params = first.sampling.mirostat
        assert params is not None
        mus = self._mus.setdefault(first.sequence_id, [2.0 * params.tau])
        del mus[first.num_output + 1 :]
        while len(mus) <= first.num_output:
            mus.append(_next_mu(mus[-1], 0.0, params))
        chosen: list[int] = []
        for row, row_logits in zip(rows, logits, strict=True):
            number = uniform(row.seed, row.position)
            token_id, surprise = _draw(row_logits / row.sampling.temperature, mus[-1], number, params)
            chosen.append(token_id)
            mus.append(_next_mu(mus[-1], surprise, params))
            if row.num_drafted < len(row.draft) and token_id != row.draft[row.num_drafted]:
                break
        return chosen


def _next_mu(mu: float, surprise: float, params: MirostatParams) -> float:
    return mu - params.eta * (surprise - params.tau)


def _draw(scaled: torch.Tensor, mu: float, number: float, params: MirostatParams) -> tuple[int, float]:
    """Return (token id, its surprise in bits). scaled: [V], logits over temperature. number: random, in [0, 1)."""
    surprises = scaled.double().log_softmax(dim=-1) / -math.log(2.0)
    limit = max(float(surprises.min()), mu if params.version == 2 else _largest_surprise(surprises, mu))
    ids = (surprises <= limit).nonzero().squeeze(-1)
    weights = torch.exp2(-surprises[ids])
    place = draw(weights.unsqueeze(0), torch.tensor([number], dtype=torch.float64, device=scaled.device))
    surprise = float(surprises[ids[place]])
    if params.version == 2:
        surprise += math.log2(float(weights.sum()))
    return int(ids[place]), surprise


def _largest_surprise(surprises: torch.Tensor, mu: float) -> float:
    """Return the surprise of the k-th likeliest token, with k as in mirostat version 1. surprises: [V], in bits."""
    finite = surprises[torch.isfinite(surprises)]
    best = finite.topk(min(_NUM_ESTIMATING, len(finite)), largest=False).values  # ascending
    k = _num_tokens(best.tolist(), mu, len(surprises))
    if k <= len(best):
        return float(best[k - 1])
    return math.inf if k >= len(finite) else float(finite.kthvalue(k).values)


def _num_tokens(best_surprises: list[float], mu: float, vocab_size: int) -> int:
    """Return mirostat's k (algorithm 1 of the paper), at least 1. The Zipf exponent is estimated by least squares."""
    numerator = denominator = 0.0
    for rank, (surprise, next_surprise) in enumerate(pairwise(best_surprises), 1):
        t = math.log((rank + 1) / rank)
        numerator += t * (next_surprise - surprise) * math.log(2.0)
        denominator += t * t
    exponent = numerator / denominator if denominator else 0.0
    if exponent == 0.0:  # all are equally likely
        return vocab_size if mu >= math.log2(vocab_size) else 1
    epsilon = exponent - 1.0
    # log of epsilon / (1 - N ** -epsilon), which tends to -log(log N) as epsilon goes to 0
    if abs(epsilon) < 1e-9:
        log_scale = -math.log(math.log(vocab_size))
    elif epsilon > 0:
        log_scale = math.log(epsilon) - math.log(-math.expm1(-epsilon * math.log(vocab_size)))
    else:
        log_scale = math.log(-epsilon) - math.log(math.expm1(-epsilon * math.log(vocab_size)))
    log_k = (log_scale + mu * math.log(2.0)) / exponent
    return vocab_size if log_k >= math.log(vocab_size) else max(1, int(math.exp(log_k)))
