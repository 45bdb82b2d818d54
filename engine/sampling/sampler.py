"""Sampler: chooses each sequence's next tokens by a fixed pipeline, skipping steps that no row uses.

grammar mask -> logit bias -> penalties -> DRY -> allowed tokens -> bad words, minimum length -> thinking budget ->
temperature -> top-n-sigma -> top-k -> typical -> top-p, min-p -> XTC -> draw; or mirostat after the temperature. Log
probabilities come from the raw logits. A sequence with a draft has a row for each draft token and one more. Each row is
sampled as if the draft tokens before it were accepted; rejection.py then decides how many are.
"""

import math
from collections import abc
from collections.abc import Mapping

import torch

from engine.sampling.distribution import draw_ids, probabilities
from engine.sampling.draw import Purpose, uniform
from engine.sampling.logit_edits import LogitEditor
from engine.sampling.logprobs import token_logprobs, with_requested_tokens
from engine.sampling.masks_ahead import NO_MASKS, PendingMasks
from engine.sampling.rejection import agreeing_prefix, verify
from engine.sampling.rows import LogitsRow, first_rows
from engine.sampling.steps.mirostat import Mirostat
from engine.scheduling.plan import RowResult
from models.kernels.ops import select_operations
from models.kernels.torch.logits import LogitOperations

_CPU = torch.device("cpu")
_NOT_FINITE = "the model's output was not finite (NaN or infinity) for this request"


def corrupted() -> RowResult:
    """Return the error result for a row whose logits or log probabilities are not finite."""
    return RowResult([], error=_NOT_FINITE, is_corrupted=True)


class Sampler:
    """Samples the next tokens of each sequence. Keeps each sequence's sampling state until `release`."""

    def __init__(self, eos_token_ids: list[int], device: torch.device = _CPU) -> None:
        self.logit_ops = select_operations(torch.float32, device).logits()
        self._editor = LogitEditor(eos_token_ids, self.logit_ops)
        self.masks = self._editor.masks
        self._mirostat = Mirostat()

    def release(self, sequence_id: str) -> None:
        self._editor.release(sequence_id)
        self._mirostat.release(sequence_id)

    def sample(
        self,
        logits: torch.Tensor,
        rows: list[LogitsRow],
        draft_probs: Mapping[str, torch.Tensor] | None = None,
        masks: PendingMasks = NO_MASKS,
    ) -> list[RowResult]:
        """Return the next tokens of each sequence: the accepted tokens of its draft, and one more.

        rows: for each sequence, one row per draft token and one more, as `rows_of_plan` returns them. logits: [L, V]
        fp32, edited in place. draft_probs: by sequence id, the distributions that a randomly drawn draft was sampled
        from: [k, V]. masks: from `masks.start` with the same rows.

        A sequence gets an error if its tokens need logits that are not finite, or if its own parameters rule out every
        token; other sequences are not affected.
        """
        best_values, chosen = self.logit_ops.best_ids(logits)  # the values also tell which rows are finite
        if not all(map(math.isfinite, best_values.tolist())):
            return self._sample_nonfinite(logits, rows, draft_probs, masks, torch.isfinite(best_values))
        logprob_rows = [index for index, row in enumerate(rows) if row.sampling.logprobs is not None]
        raw = logits[logprob_rows] if logprob_rows else None  # a copy: the steps below edit in place
        edited = self._editor.edit(logits, rows, chosen.tolist(), masks)
        impossible: list[int] = []  # rows in which no token is left
        if edited:
            is_all = len(edited) == len(rows)
            best_values, best = self.logit_ops.best_ids(logits if is_all else logits[edited])
            chosen[edited] = best
            impossible = [
                index for index, value in zip(edited, best_values.tolist(), strict=True) if value == -math.inf
            ]
        if impossible:
            logits[impossible] = 0.0
        token_ids = self._choose(logits, rows, chosen.tolist(), draft_probs or {})
        results = [RowResult(ids) for ids in token_ids]
        if raw is not None:
            results = _with_logprobs(self.logit_ops, results, rows, raw)
        return _refusals(results, rows, set(impossible)) if impossible else results

    def _sample_nonfinite(
        self,
        logits: torch.Tensor,
        rows: list[LogitsRow],
        draft_probs: Mapping[str, torch.Tensor] | None,
        masks: PendingMasks,
        is_finite: torch.Tensor,
    ) -> list[RowResult]:
        """Sample a batch in which some rows are not finite; see `sample`. is_finite: [L], one flag per row.

        A sequence fails only if one of its returned tokens comes from such a row: rows after a rejected draft token do
        not matter.
        """
        logits[~is_finite] = 0.0
        can_sample = is_finite.tolist()
        return [
            result if all(can_sample[start : start + len(result.token_ids)]) else corrupted()
            for result, start in zip(self.sample(logits, rows, draft_probs, masks), first_rows(rows), strict=True)
        ]

    def _choose(
        self,
        logits: torch.Tensor,
        rows: list[LogitsRow],
        chosen: list[int],
        draft_probs: Mapping[str, torch.Tensor],
    ) -> list[list[int]]:
        """Return the tokens of each sequence. logits: [L, V], edited. chosen: the argmax of each row."""
        stochastic_ids = {row.sequence_id for row in rows if row.draft and row.sequence_id in draft_probs}
        steered_ids = {row.sequence_id for row in rows if row.sampling.mirostat and not row.sampling.is_greedy}
        assert stochastic_ids.isdisjoint(steered_ids), "a draft drawn at random for a sequence with mirostat"
        not_drawn = stochastic_ids | steered_ids
        sampled_rows = [
            index for index, row in enumerate(rows) if not row.sampling.is_greedy and row.sequence_id not in not_drawn
        ]
        if sampled_rows:
            sampled_logits = logits if len(sampled_rows) == len(rows) else logits[sampled_rows]
            sampling = [rows[index] for index in sampled_rows]
            drawn = draw_ids(self.logit_ops, sampled_logits, sampling, _uniforms(sampling))
            for index, token_id in zip(sampled_rows, drawn, strict=True):
                chosen[index] = token_id
        verified = iter(_verify_stochastic(logits, rows, stochastic_ids, draft_probs))
        result = []
        for start in first_rows(rows):
            row = rows[start]
            end = start + len(row.draft) + 1
            if row.sequence_id in steered_ids:
                result.append(self._mirostat.sample(logits[start:end], rows[start:end]))
            elif not row.draft:
                result.append([chosen[start]])
            elif row.sequence_id in stochastic_ids:
                result.append(next(verified))
            else:
                own = chosen[start:end]
                result.append(own[: agreeing_prefix(row.draft, own) + 1])
        return result


def _verify_stochastic(
    logits: torch.Tensor, rows: list[LogitsRow], ids: abc.Set[str], draft_probs: Mapping[str, torch.Tensor]
) -> list[list[int]]:
    """Verify the randomly drawn drafts of the sequences `ids` by rejection sampling; return their tokens."""
    if not ids:
        return []
    device = logits.device
    chosen = [index for index, row in enumerate(rows) if row.sequence_id in ids]
    own_rows = [rows[index] for index in chosen]
    firsts = [row for row in own_rows if not row.num_drafted]
    drafted_rows = [row for row in own_rows if row.num_drafted < len(row.draft)]
    num_accepted, next_ids = verify(
        probabilities(logits[chosen], own_rows),
        torch.cat([draft_probs[row.sequence_id][: len(row.draft)] for row in firsts]),
        torch.tensor([token_id for row in firsts for token_id in row.draft], device=device),
        torch.tensor([len(row.draft) for row in firsts], device=device),
        accept_uniforms=torch.tensor(_uniforms(drafted_rows, Purpose.ACCEPT), dtype=torch.float64, device=device),
        sample_uniforms=torch.tensor(_uniforms(own_rows), dtype=torch.float64, device=device),
    )
    return [
        [*row.draft[:count], next_id]
        for row, count, next_id in zip(firsts, num_accepted.tolist(), next_ids.tolist(), strict=True)
    ]


def _uniforms(rows: list[LogitsRow], purpose: Purpose = Purpose.SAMPLE) -> list[float]:
    return [uniform(row.seed, row.position, purpose) for row in rows]


def _with_logprobs(
    ops: LogitOperations, results: list[RowResult], rows: list[LogitsRow], raw: torch.Tensor
) -> list[RowResult]:
    """Return the results with requested log probabilities. raw: unedited logits of the requesting sequences."""
    firsts = [rows[start] for start in first_rows(rows)]
    chosen_rows: list[int] = []
    token_ids: list[int] = []
    num_top: list[int] = []
    requested: list[tuple[int, ...]] = []
    start = 0
    for row, result in zip(firsts, results, strict=True):
        sampling = row.sampling
        if sampling.logprobs is None:
            continue
        chosen_rows += range(start, start + len(result.token_ids))
        token_ids += result.token_ids
        num_top += [0 if sampling.logprob_token_ids else sampling.logprobs] * len(result.token_ids)
        requested += [sampling.logprob_token_ids] * len(result.token_ids)
        start += len(row.draft) + 1
    chosen = raw[chosen_rows]
    scored = token_logprobs(ops, chosen, token_ids, num_top)
    entries = iter(with_requested_tokens(ops, scored, chosen, requested) if any(requested) else scored)
    return [
        result
        if row.sampling.logprobs is None
        else RowResult(result.token_ids, [next(entries) for _ in result.token_ids])
        for row, result in zip(firsts, results, strict=True)
    ]


def _refusals(results: list[RowResult], rows: list[LogitsRow], impossible_rows: abc.Set[int]) -> list[RowResult]:
    """Return the results, replaced by an error where a sequence's parameters rule out every token.

    results: one per sequence of `rows`. impossible_rows: indices of rows without an allowed token; they do not matter
    after a rejected draft token.
    """
    refused = []
    for result, start in zip(results, first_rows(rows), strict=True):
        needed = range(start, start + len(result.token_ids))
        impossible = next((rows[index] for index in needed if index in impossible_rows), None)
        refused.append(result if impossible is None else refusal(impossible))
    return refused


def refusal(row: LogitsRow) -> RowResult:
    """Return the error result for a row whose parameters rule out every token."""
    names = _banning_parameters(row)
    after = f"at token {row.num_output + 1:,} of the output"
    error = f"{after} no token is left: {' and '.join(names)} rule out all of them together; allow more"
    return RowResult([], error=error, refused_param=names[0])


def _banning_parameters(row: LogitsRow) -> list[str]:
    """Return the names of the request's parameters that rule out tokens; at least one."""
    sampling = row.sampling
    uses = {
        "allowed_token_ids": sampling.allowed_token_ids is not None,
        "bad_words": bool(sampling.bad_words),
        "min_tokens": sampling.min_tokens > 0,
        "the grammar": row.grammar is not None,
    }
    return [name for name, is_used in uses.items() if is_used] or ["logit_bias"]
