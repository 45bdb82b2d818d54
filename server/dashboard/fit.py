"""fit_of: whether one more user fits on a model's engine, by docs/operations.md#capacity, and about how many do."""

from engine.client.interface import EngineState
from server.live.reports import Fit
from server.served.model import ServedModel

FIRST_TOKEN_LIMIT_S, GAP_LIMIT_S = 2.0, 0.1  # faster than that, a chat feels quick, and text comes as fast as one reads
PAUSE_S = 45.0  # of a user, who reads, thinks and writes
_DEFAULT_TOKENS = 1000  # of a request, before any was answered


def fit_of(model: ServedModel, now_ms: float) -> Fit | None:
    """Return whether one more user fits; None if the model's engine is not ready, or does not generate."""
    info, live = model.info, model.live
    if info is None or info.pooling is not None or model.client.status().state is not EngineState.READY:
        return None
    stats, pace = live.last_step, live.pace
    mean_s = live.requests.answers.seconds
    request_tokens = round(live.requests.answers.tokens or _DEFAULT_TOKENS)
    total = stats.blocks_total or info.num_blocks
    free_tokens = max(0, total - stats.blocks_used) * info.block_size
    firsts = live.requests.latencies(now_ms).first_token_s
    first_token_s = firsts[1] if firsts else None
    gap_s = pace.step_s(stats.running + 1) or info.decode_step_s * (stats.running + 1) or None
    most_quick = pace.most_within(GAP_LIMIT_S)
    checks = {
        "waiting": stats.waiting == 0,
        "slots": stats.running < info.max_num_seqs,
        "memory": not total or free_tokens >= request_tokens,
        "first_token": first_token_s is None or first_token_s <= FIRST_TOKEN_LIMIT_S,
        "gap": gap_s is None or gap_s <= GAP_LIMIT_S,
    }
    return Fit(
        model=model.name,
        reasons=[name for name, is_fine in checks.items() if not is_fine],
        running=stats.running,
        waiting=stats.waiting,
        slots=info.max_num_seqs,
        free_tokens=free_tokens,
        request_tokens=request_tokens,
        first_token_s=first_token_s,
        gap_s=gap_s,
        most_quick=most_quick,
        answer_s=mean_s,
        users=None if not mean_s or not most_quick else int(most_quick * (mean_s + PAUSE_S) / mean_s),
    )
