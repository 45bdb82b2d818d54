"""Application of a step's results to sequences: appends tokens, checks stop conditions and makes outputs."""

from engine.protocol import FinishReason, RequestOutput, TokenLogprobs
from engine.protocol.sequence_events import Ended
from engine.scheduling.plan import PlanItem, RowResult
from engine.scheduling.sequence import Sequence


def apply_row(item: PlanItem, row: RowResult, eos_token_ids: frozenset[int], *, now_s: float) -> RequestOutput | None:
    """Advance the sequence by the accepted tokens; return its output, or None if there is nothing to report.

    Sampled tokens after the one that ends the sequence are dropped. now_s: the time, as time.monotonic().
    """
    sequence = item.sequence
    assert bool(row.token_ids) == item.needs_logits
    assert len(row.token_ids) <= item.num_draft + 1
    if row.prompt_logprobs:
        _collect_prompt_logprobs(sequence, item.start, row.prompt_logprobs)
    new_ids, finish_reason, stop_token_id = _accept(sequence, row.token_ids, eos_token_ids)
    num_computed = item.start + item.num_new
    if item.num_draft:
        num_rejected = item.num_draft + 1 - len(row.token_ids)
        sequence.num_drafted += item.num_draft
        sequence.num_draft_accepted += min(item.num_draft - num_rejected, len(new_ids))
        # A sequence that ends inside an accepted draft has fewer tokens than were computed for it.
        num_computed = min(num_computed - num_rejected, len(sequence.tokens))
    sequence.num_computed = num_computed
    sequence.draft = []
    if not new_ids and finish_reason is None and sequence.num_computed == len(sequence.tokens):
        finish_reason = FinishReason.LENGTH  # max_tokens is 0: the prompt is computed and nothing follows
    if not new_ids and finish_reason is None:
        return _progress_output(sequence)
    if sequence.has_output and finish_reason is None and not sequence.preempted_s:  # as in most decode steps
        return RequestOutput(
            id=sequence.request.id,
            new_ids=new_ids,
            logprobs=None if row.logprobs is None else row.logprobs[: len(new_ids)],
            num_cached_tokens=sequence.num_cached or 0,
            num_drafted=sequence.num_drafted,
            num_draft_accepted=sequence.num_draft_accepted,
        )
    is_first, sequence.has_output = not sequence.has_output, True
    return RequestOutput(
        id=sequence.id,
        new_ids=new_ids,
        logprobs=None if row.logprobs is None else row.logprobs[: len(new_ids)],
        prompt_logprobs=_all_prompt_logprobs(sequence) if is_first else None,
        num_prompt_computed=sequence.num_prompt if is_first and sequence.request.reports_progress else None,
        finish_reason=finish_reason,
        stop_token_id=stop_token_id,
        num_cached_tokens=sequence.num_cached or 0,
        queue_s=_queue_s(sequence) if is_first else None,
        first_token_s=now_s if is_first and new_ids else None,
        ended_s=None if finish_reason is None else now_s,
        preempted_s=_take_preemptions(sequence) if sequence.preempted_s else [],
        num_drafted=sequence.num_drafted,
        num_draft_accepted=sequence.num_draft_accepted,
    )


def _progress_output(sequence: Sequence) -> RequestOutput | None:
    """Return the prompt's progress, which never falls, if the request asks for it and has no output yet."""
    if sequence.has_output or not sequence.request.reports_progress:
        return None
    num_computed = max(sequence.num_computed, sequence.num_computed_at_preemption)
    return RequestOutput(
        id=sequence.id,
        num_prompt_computed=min(num_computed, sequence.num_prompt),
        num_cached_tokens=sequence.num_cached or 0,
        queue_s=_queue_s(sequence),
    )


def terminal_output(
    sequence: Sequence,
    finish_reason: FinishReason,
    *,
    error: str | None = None,
    is_refused: bool = False,
    refused_param: str | None = None,
) -> RequestOutput:
    """Return the last output of a sequence that an abort, a time limit or an error ends: it has no new tokens."""
    return RequestOutput(
        id=sequence.id,
        finish_reason=finish_reason,
        num_cached_tokens=sequence.num_cached or 0,
        num_written_tokens=sequence.num_written,
        queue_s=None if sequence.has_output else _queue_s(sequence),
        preempted_s=_take_preemptions(sequence) if sequence.preempted_s else [],
        error=error,
        is_refused=is_refused,
        refused_param=refused_param,
    )


def ended_event(sequence: Sequence, output: RequestOutput, now_s: float) -> Ended:
    """Return the event that the sequence has ended. output: the sequence's last output."""
    assert output.finish_reason is not None
    return Ended(
        id=sequence.id,
        at_s=now_s,
        reason=output.finish_reason.value,
        num_decode_steps=sequence.num_decode_steps,
        num_drafted=sequence.num_drafted,
        num_accepted=sequence.num_draft_accepted,
    )


def _accept(
    sequence: Sequence, token_ids: list[int], eos_token_ids: frozenset[int]
) -> tuple[list[int], FinishReason | None, int | None]:
    """Append tokens up to the one that ends the sequence; return (appended ids, finish reason, stop token id).

    A grammar also appends the tokens that it forces next, and ends the sequence when it is complete.
    """
    sampling, grammar = sequence.request.sampling, sequence.grammar
    num_output = sequence.num_output
    is_complete = False
    if grammar is not None and token_ids:
        token_ids = grammar.advance(token_ids, max_tokens=sequence.num_remaining)
        is_complete = grammar.is_complete
    for index, token_id in enumerate(token_ids):
        num_output += 1
        # The sampler bans stop ids for the first min_tokens tokens, so a forced one among them does not stop.
        is_stop = num_output > sampling.min_tokens and (
            token_id in sampling.stop_token_ids or (token_id in eos_token_ids and not sampling.ignore_eos)
        )
        if is_stop or (num_output == sampling.max_tokens and not (is_complete and index + 1 == len(token_ids))):
            new_ids = token_ids[: index + 1]
            sequence.tokens += new_ids
            return new_ids, *((FinishReason.STOP, token_id) if is_stop else (FinishReason.LENGTH, None))
    sequence.tokens += token_ids
    return token_ids, FinishReason.STOP if is_complete else None, None


def _collect_prompt_logprobs(sequence: Sequence, start: int, logprobs: list[TokenLogprobs]) -> None:
    """Append the log probabilities of a prompt chunk that begins at `start`, except those that the sequence already has
    from before a preemption."""
    num_known = len(sequence.prompt_logprobs) - start
    assert num_known >= 0
    sequence.prompt_logprobs += logprobs[num_known:]


def _all_prompt_logprobs(sequence: Sequence) -> list[TokenLogprobs | None] | None:
    if sequence.request.sampling.prompt_logprobs is None:
        return None
    assert not sequence.needs_prompt_rows
    return [None, *sequence.prompt_logprobs]  # nothing predicts the first token


def _take_preemptions(sequence: Sequence) -> list[float]:
    preempted_s, sequence.preempted_s = sequence.preempted_s, []
    return preempted_s


def _queue_s(sequence: Sequence) -> float | None:
    if sequence.first_scheduled_s is None:
        return None
    return max(0.0, sequence.first_scheduled_s - sequence.request.arrival_s)
