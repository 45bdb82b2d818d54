"""Log probabilities for responses: from raw logits, always finite."""

import msgspec
import torch

from engine.protocol import TokenLogprobs
from models.kernels.torch.logits import LogitOperations

# Reported for a token that the model excludes (-inf): JSON has no infinity.
LOGPROB_FLOOR = -9999.0


def token_logprobs(
    ops: LogitOperations,
    logits: torch.Tensor,
    token_ids: list[int],
    num_top: list[int],
    *,
    with_ranks: bool = False,
) -> list[TokenLogprobs]:
    """Return, for each row, the log probability of the given token and of the `num_top` best, with ranks on request.

    A row's numbers depend on the row alone, and equally likely tokens come in order of their ids. logits: [L, V] fp32,
    before any sampling parameter. token_ids, num_top: one per row.
    """
    device = logits.device
    log_total = ops.log_sums(logits).unsqueeze(-1)
    chosen_logits = logits.gather(-1, torch.tensor(token_ids, device=device).unsqueeze(-1))
    chosen_list = (chosen_logits - log_total).squeeze(-1).clamp(min=LOGPROB_FLOOR).tolist()
    ranks: list[int | None] = [None] * len(token_ids)
    if with_ranks:
        ranks = ((logits > chosen_logits).sum(dim=-1) + 1).tolist()
    widest = max(num_top)
    if widest == 0:
        return [
            TokenLogprobs(token_id, lp, [], rank)
            for token_id, lp, rank in zip(token_ids, chosen_list, ranks, strict=True)
        ]
    top_values, top_ids = ops.top_ids(logits, widest)
    values_list = (top_values - log_total).clamp(min=LOGPROB_FLOOR).tolist()
    ids_list = top_ids.tolist()
    return [
        TokenLogprobs(
            token_ids[row],
            chosen_list[row],
            list(zip(ids_list[row][:n], values_list[row][:n], strict=True)),
            ranks[row],
        )
        for row, n in enumerate(num_top)
    ]


def with_requested_tokens(
    ops: LogitOperations, entries: list[TokenLogprobs], logits: torch.Tensor, requested: list[tuple[int, ...]]
) -> list[TokenLogprobs]:
    """Return the entries, with `top` replaced by the log probabilities of the requested tokens, in order, where a row
    requests any.

    logits: [L, V], raw. requested: token ids for each row, empty to keep the entry.
    """
    log_total = ops.log_sums(logits)
    rows = torch.tensor([row for row, ids in enumerate(requested) for _ in ids], device=logits.device)
    columns = torch.tensor([token_id for ids in requested for token_id in ids], device=logits.device)
    values = iter((logits[rows, columns] - log_total[rows]).clamp(min=LOGPROB_FLOOR).tolist())
    return [
        msgspec.structs.replace(entry, top=[(token_id, next(values)) for token_id in ids]) if ids else entry
        for entry, ids in zip(entries, requested, strict=True)
    ]
