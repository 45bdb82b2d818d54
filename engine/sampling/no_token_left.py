"""Refusals of sequences whose own parameters rule out every token."""

from collections import abc

from engine.sampling.rows import LogitsRow, first_rows
from engine.scheduling.plan import RowResult


def refusals(results: list[RowResult], rows: list[LogitsRow], impossible_rows: abc.Set[int]) -> list[RowResult]:
    """Return the results, with an error for each sequence one of whose tokens comes from a row without a token.

    results: one for each sequence of `rows`. impossible_rows: the indices of rows in which no token is left. A row that
    follows a rejected draft token is not needed.
    """
    refused = []
    for result, start in zip(results, first_rows(rows), strict=True):
        needed = range(start, start + len(result.token_ids))
        impossible = next((rows[index] for index in needed if index in impossible_rows), None)
        refused.append(result if impossible is None else _refusal(impossible))
    return refused


def _refusal(row: LogitsRow) -> RowResult:
    names = _banning_parameters(row)
    after = f"at token {row.num_output + 1:,} of the output"
    error = f"{after} no token is left: {' and '.join(names)} rule out all of them together; allow more"
    return RowResult([], error=error, refused_param=names[0])


def _banning_parameters(row: LogitsRow) -> list[str]:
    """Return the parameters of the row's request that rule tokens out; at least one does."""
    sampling = row.sampling
    uses = {
        "allowed_token_ids": sampling.allowed_token_ids is not None,
        "bad_words": bool(sampling.bad_words),
        "min_tokens": sampling.min_tokens > 0,
        "the grammar": row.grammar is not None,
    }
    return [name for name, is_used in uses.items() if is_used] or ["logit_bias"]
