"""Refusals of sequences whose own parameters rule out every token."""

from collections import abc

from engine.sampling.rows import first_rows
from engine.scheduling.plan import RowResult
from engine.scheduling.sequence import Sequence


def refusals(results: list[RowResult], sequences: list[Sequence], impossible_rows: abc.Set[int]) -> list[RowResult]:
    """The results, with an error for each sequence one of whose tokens comes from a row in which no token is left.

    impossible_rows: their indices. A row that follows a rejected draft token is not needed.
    """
    refused = []
    for result, sequence, start in zip(results, sequences, first_rows(sequences), strict=True):
        places = [place for place in range(len(result.token_ids)) if start + place in impossible_rows]
        refused.append(_refusal(sequence, sequence.num_output + places[0]) if places else result)
    return refused


def _refusal(sequence: Sequence, num_output: int) -> RowResult:
    """num_output: tokens before the one that cannot be chosen."""
    names = _banning_parameters(sequence)
    after = f"at token {num_output + 1:,} of the output"
    error = f"{after} no token is left: {' and '.join(names)} rule out all of them together; allow more"
    return RowResult([], error=error, refused_param=names[0])


def _banning_parameters(sequence: Sequence) -> list[str]:
    """Those of the request that rule tokens out; at least one does."""
    sampling = sequence.request.sampling
    uses = {
        "allowed_token_ids": sampling.allowed_token_ids is not None,
        "bad_words": bool(sampling.bad_words),
        "min_tokens": sampling.min_tokens > 0,
        "the grammar": sequence.grammar is not None,
    }
    return [name for name, is_used in uses.items() if is_used] or ["logit_bias"]
