"""Verification of drafts: the emitted tokens follow the target's distribution, whatever the draft was.

Two cases. Where the draft's tokens were chosen without chance (prompt lookup, a client's prediction, a greedy draft
model), the target draws its own token at each position, and a drafted token is accepted while it is the drawn one.
That is rejection sampling with a one-point q, and it gives the very text of decoding without drafts: the random number
of a position is the same.

Where a draft model sampled d from q, d is accepted with probability min(1, p(d) / q(d)), and the first rejected one is
replaced by a draw from max(p - q, 0); after the last accepted one the target draws as ever (Leviathan et al. 2023,
algorithm 1; Chen et al. 2023, theorem 1). This accepts most, and keeps the distribution of the text but not the text
of a given seed. It is exact only as long as a drafted token is not dropped for what it is: whether a draft goes on may
depend on the tokens before, and on nothing after.
"""

from collections.abc import Sequence

import torch

from engine.sampling.draw import draw


def agreeing_prefix(drafted: Sequence[int], drawn: Sequence[int]) -> int:
    """How many drafted tokens are what the target drew at their positions, up to the first that is not."""
    for index, (proposed, token_id) in enumerate(zip(drafted, drawn, strict=False)):
        if proposed != token_id:
            return index
    return min(len(drafted), len(drawn))


def verify(
    p: torch.Tensor,
    q: torch.Tensor,
    draft_ids: torch.Tensor,
    draft_lens: torch.Tensor,
    *,
    accept_uniforms: torch.Tensor,
    sample_uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many tokens of each sampled draft stand, and the token after them: ([N], [N]) int64.

    p: [D + N, V], the target's probabilities, draft after draft: at each drafted position and at the one after.
    q: [D, V], those that draft_ids ([D] int64) were drawn from. draft_lens: [N] int64, which add up to D.
    accept_uniforms: [D] and sample_uniforms: [D + N], fp64 in [0, 1), independent of each other and of the drafting.
    """
    num_drafts, num_drafted = len(draft_lens), len(draft_ids)
    device = draft_ids.device
    draft_of = torch.repeat_interleave(torch.arange(num_drafts, device=device), draft_lens)  # [D]
    first = draft_lens.cumsum(0) - draft_lens  # [N], of each draft among the drafted tokens
    index = torch.arange(num_drafted, device=device)
    p_rows = index + draft_of  # each draft before has one row more in p
    p_drafted = p[p_rows, draft_ids].double()
    q_drafted = q[index, draft_ids].double()
    is_rejected = ~(accept_uniforms * q_drafted < p_drafted)  # what is not a number is rejected, too
    place = torch.where(is_rejected, index - first[draft_of], draft_lens[draft_of])
    num_accepted = draft_lens.scatter_reduce(0, draft_of, place, "amin")
    last_rows = first + torch.arange(num_drafts, device=device) + num_accepted
    weights = p[last_rows]
    rejecting = (num_accepted < draft_lens).nonzero().squeeze(-1)
    weights[rejecting] = _residual(weights[rejecting], q[(first + num_accepted)[rejecting]])
    return num_accepted, draw(weights, sample_uniforms[last_rows])


def _residual(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """max(p - q, 0) row by row; p itself where rounding leaves nothing, since then p and q are the same, and where q
    holds what is not a number."""
    rest = (p - q).clamp(min=0.0)
    return torch.where(rest.sum(dim=-1, keepdim=True) > 0, rest, p)
