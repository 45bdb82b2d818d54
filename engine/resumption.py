"""Resumption: what an engine needs to go on with a request that another engine has begun."""

import msgspec


class Resumption(msgspec.Struct, frozen=True, kw_only=True):
    """The request's output so far, and what has been said of it; the next engine's outputs continue both.

    The tokens are known like those of a preempted sequence: they are computed again, and not sampled.
    """

    output_ids: list[int]  # at least one
    num_cached_tokens: int  # as in RequestOutput, and so the rest
    num_drafted: int = 0
    num_draft_accepted: int = 0
    num_predicted: int = 0  # of the last token
