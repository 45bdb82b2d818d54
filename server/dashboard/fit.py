"""fit_of, pooling_fit_of: whether one more user fits on a model's engine, by docs/operations.md#capacity."""

from engine.client.interface import EngineState
from server.live.reports import Fit, PoolingFit
from server.live.request_table import Latencies
from server.served.model import ServedModel

FIRST_TOKEN_LIMIT_S, GAP_LIMIT_S = 2.0, 0.1  # faster than that, answers feel quick, and text comes as fast as one reads
PAUSE_S = 45.0  # of a user, who reads, thinks and writes
_SEEN = ("first_token", "open_first_token", "seen_gap", "open_gap")  # times that clients have seen
_DEFAULT_TOKENS = 1000  # of a request, before any was answered


def fit_of(model: ServedModel, now_ms: float) -> Fit | None:
    """Return whether one more user fits; None if the model's engine is not ready, or does not generate."""
    info, live = model.info, model.live
    if info is None or info.pooling is not None or model.client.status().state is not EngineState.READY:
        return None
    stats, pace = live.last_step, live.pace
    answers = live.requests.answers
    mean_s, prompt_tokens, output_tokens = answers.seconds, answers.prompt_tokens, answers.output_tokens
    request_tokens = round((prompt_tokens or 0) + (output_tokens or 0)) or _DEFAULT_TOKENS
    total = stats.blocks_total or info.num_blocks
    free_tokens = max(0, total - stats.blocks_used) * info.block_size
    first_token_s, seen_gap_s = _seen(live.requests.latencies(now_ms))
    open_first_token_s, open_gap_s = _seen(live.requests.open_latencies())
    gap_s = pace.step_s(stats.running + 1) or info.decode_step_s * (stats.running + 1) or None
    predicted = pace.predicted_steps
    most_quick = pace.most_within(GAP_LIMIT_S)
    checks = {
        "waiting": stats.waiting == 0,
        "slots": stats.running < info.max_num_seqs,
        "memory": not total or free_tokens >= request_tokens,
        "first_token": _is_within(FIRST_TOKEN_LIMIT_S, first_token_s),
        "open_first_token": _is_within(FIRST_TOKEN_LIMIT_S, open_first_token_s),
        "seen_gap": _is_within(GAP_LIMIT_S, seen_gap_s),
        "open_gap": _is_within(GAP_LIMIT_S, open_gap_s),
        "gap": _is_within(GAP_LIMIT_S, gap_s),
    }
    is_slow = not all(is_fine for name, is_fine in checks.items() if name in _SEEN)  # the computed times are not true
    return Fit(
        model=model.name,
        reasons=[name for name, is_fine in checks.items() if not is_fine],
        running=stats.running,
        waiting=stats.waiting,
        slots=info.max_num_seqs,
        free_tokens=free_tokens,
        request_tokens=request_tokens,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        first_token_s=first_token_s,
        open_first_token_s=open_first_token_s,
        seen_gap_s=seen_gap_s,
        open_gap_s=open_gap_s,
        gap_s=gap_s,
        most_quick=most_quick,
        answer_s=mean_s,
        prompt_token_s=info.prefill_seconds_per_token,
        decode_step_s=info.decode_step_s,
        predicted_s=predicted.predicted_s,
        measured_s=predicted.measured_s,
        error_s=predicted.error_s,
        users=None if not mean_s or not most_quick or is_slow else int(most_quick * (mean_s + PAUSE_S) / mean_s),
    )


def pooling_fit_of(model: ServedModel, now_ms: float) -> PoolingFit | None:
    """Return whether one more user fits; None if the model's engine is not ready, or generates."""
    info, requests = model.info, model.live.requests
    if info is None or info.pooling is None or model.client.status().state is not EngineState.READY:
        return None
    both = requests.latencies(now_ms), requests.open_latencies()
    answer_s = max((each.whole_s[1] for each in both if each.whole_s), default=None)
    fits = answer_s is None or answer_s <= FIRST_TOKEN_LIMIT_S
    return PoolingFit(model.name, fits, answer_s, model.live.pace.texts_per_s)


def _seen(latencies: Latencies) -> tuple[float | None, float | None]:
    """Return the 90th percentiles of the times to the first token and between tokens. None: no request had any."""
    return (
        latencies.first_token_s[1] if latencies.first_token_s else None,
        latencies.per_token_s[1] if latencies.per_token_s else None,
    )


def _is_within(limit_s: float, found_s: float | None) -> bool:
    return found_s is None or found_s <= limit_s
