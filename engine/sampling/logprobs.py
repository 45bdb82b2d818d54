"""Log probabilities as responses report them: from raw logits, always finite."""

import torch

from engine.protocol import TokenLogprobs

# JSON has no infinity. A token that the model excludes (-inf) is reported with this.
_FLOOR = -9999.0


def token_logprobs(logits: torch.Tensor, token_ids: list[int], num_top: list[int]) -> list[TokenLogprobs]:
    """The chosen tokens' log probabilities and the best `num_top` of each row.

    logits: [L, V] fp32, before any sampling parameter; token_ids, num_top: one a row.
    """
    device = logits.device
    log_total = torch.logsumexp(logits, dim=-1, keepdim=True)
    chosen = (logits.gather(-1, torch.tensor(token_ids, device=device).unsqueeze(-1)) - log_total).squeeze(-1)
    chosen_list = chosen.clamp(min=_FLOOR).tolist()
    widest = max(num_top)
    if widest == 0:
        return [TokenLogprobs(token_id, lp, []) for token_id, lp in zip(token_ids, chosen_list, strict=True)]
    top_values, top_ids = torch.topk(logits, widest, dim=-1)
    values_list = (top_values - log_total).clamp(min=_FLOOR).tolist()
    ids_list = top_ids.tolist()
    return [
        TokenLogprobs(token_ids[row], chosen_list[row], list(zip(ids_list[row][:n], values_list[row][:n], strict=True)))
        for row, n in enumerate(num_top)
    ]
