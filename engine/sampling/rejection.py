"""Verification of drafts: emitted tokens follow the target's distribution, whatever the draft was.

If draft tokens are deterministic (prompt lookup, a client's prediction, a greedy draft model), the target samples its
own token at each position, and draft tokens are accepted up to the first that differs. This is rejection sampling with
a one-point q, and it gives exactly the output of decoding without drafts: each position uses the same random number.

If a draft model sampled d from q, d is accepted with probability min(1, p(d) / q(d)), and the first rejected token is
replaced by a draw from max(p - q, 0); if all are accepted, the target samples one more token as usual (Leviathan et al.
2023, algorithm 1; Chen et al. 2023, theorem 1). This accepts the most tokens and preserves the output's distribution,
but not the output of a given seed. It is exact only if no draft token is dropped because of its value: whether a draft
continues may depend only on the tokens before.
"""

from collections import abc

import torch

from models.kernels.torch.draw import draw


def agreeing_prefix(drafted: abc.Sequence[int], sampled: abc.Sequence[int]) -> int:
    """Return the length of the common prefix of drafted and sampled tokens."""
    for index, (proposed, token_id) in enumerate(zip(drafted, sampled, strict=False)):
        if proposed != token_id:
            return index
    return min(len(drafted), len(sampled))


def verify(
    p: torch.Tensor,
    q: torch.Tensor,
    draft_ids: torch.Tensor,
    draft_lens: torch.Tensor,
    *,
    accept_uniforms: torch.Tensor,
    sample_uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Verify sampled drafts; return the number of accepted tokens of each, and the token after them: ([N], [N]) int64.

    p: [D + N, V], the target's probabilities, draft after draft: at each drafted position and at the one after. q: [D,
    V], the distributions that draft_ids ([D] int64) were sampled from. draft_lens: [N] int64, with sum D.
    accept_uniforms: [D] and sample_uniforms: [D + N], fp64 in [0, 1), independent of each other and of the draft's
    random numbers.
    """
    num_drafts, num_drafted = len(draft_lens), len(draft_ids)
    device = draft_ids.device
    draft_of = torch.repeat_interleave(torch.arange(num_drafts, device=device), draft_lens)  # [D]
    first = draft_lens.cumsum(0) - draft_lens  # [N], of each draft among the drafted tokens
    index = torch.arange(num_drafted, device=device)
    p_rows = index + draft_of  # each draft before has one row more in p
    p_drafted = p[p_rows, draft_ids].double()
    q_drafted = q[index, draft_ids].double()
    is_rejected = ~(accept_uniforms * q_drafted < p_drafted)  # NaN is rejected, too
    first_rejected = torch.where(is_rejected, index - first[draft_of], draft_lens[draft_of])
    num_accepted = draft_lens.scatter_reduce(0, draft_of, first_rejected, "amin")
    last_rows = first + torch.arange(num_drafts, device=device) + num_accepted
    weights = p[last_rows]
    has_rejected = (num_accepted < draft_lens).nonzero().squeeze(-1)
    weights[has_rejected] = _residual(weights[has_rejected], q[(first + num_accepted)[has_rejected]])
    return num_accepted, draw(weights, sample_uniforms[last_rows])


def _residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return max(p - q, 0) for each row, not normalized; p itself where rounding leaves nothing, or where q has NaN."""
    rest = (p - q).clamp(min=0.0)
    return torch.where(rest.sum(dim=-1, keepdim=True) > 0, rest, p)
