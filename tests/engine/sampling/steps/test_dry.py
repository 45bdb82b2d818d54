"""DRY against its definition in plain loops, whatever became of the sequence before; and what breakers do."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import EngineRequest, SamplingParams
from engine.protocol.sampling_params import DryParams
from engine.sampling.rows import LogitsRow
from engine.sampling.steps.dry import DryPenalties
from engine.scheduling.sequence import Sequence
from tests.helpers.logits_rows import rows_of
from tests.helpers.sampling_references import dry_penalties

V = 12


def _mask(*ids: int) -> bytes:
    return sum(1 << token_id for token_id in ids).to_bytes(2, "little")


def _sequence(tokens: list[int], num_prompt: int = 1, **params: Any) -> Sequence:
    dry = DryParams(**{"multiplier": 0.8, **params})
    request = EngineRequest(
        id="a", prompt_ids=tokens[:num_prompt], sampling=SamplingParams(max_tokens=99, dry=dry), arrival_s=0.0
    )
    return Sequence(request=request, seed=0, tokens=list(tokens), num_prompt=num_prompt)


def _step(row: LogitsRow) -> DryPenalties:
    assert row.sampling.dry is not None
    return DryPenalties(row.sampling.dry, row.known_from(0), vocab_size=V)


def _penalties(row: LogitsRow, step: DryPenalties | None = None) -> dict[int, float]:
    """step: of the row's sequence; a new one by default."""
    logits = torch.zeros(V)
    (step or _step(row)).apply(logits, row)
    return {token_id: -float(logits[token_id]) for token_id in logits.nonzero().flatten().tolist()}


def test_a_token_that_continues_a_repetition_is_penalized_by_its_length() -> None:
    found = _penalties(rows_of(_sequence([1, 2, 3, 4, 5, 9, 1, 2, 3, 4], multiplier=0.5, base=2.0))[0])
    assert found == {5: 0.5 * 2.0 ** (4 - 2)}


def test_nothing_is_penalized_below_the_allowed_length() -> None:
    assert _penalties(rows_of(_sequence([1, 2, 3, 9, 1, 2], allowed_length=3))[0]) == {}


def test_the_window_ends_a_repetition() -> None:
    tokens = [1, 2, 3, 4, 5, 9, 1, 2, 3, 4]
    assert _penalties(rows_of(_sequence(tokens, window=8, base=2.0))[0]) == {5: pytest.approx(0.8)}
    assert _penalties(rows_of(_sequence(tokens, window=6))[0]) == {}


def test_no_repetition_reaches_over_a_breaker() -> None:
    tokens = [1, 2, 3, 4, 5, 9, 1, 2, 3, 4]
    breakers = {"breaker_mask": _mask(2), "base": 2.0}
    assert _penalties(rows_of(_sequence(tokens, **breakers))[0]) == {5: pytest.approx(0.8)}
    assert _penalties(rows_of(_sequence(tokens, breaker_mask=_mask(3)))[0]) == {}
    assert _penalties(rows_of(_sequence(tokens, breaker_sequences=((2, 3),)))[0]) == {}


def test_a_breaker_itself_is_not_penalized() -> None:
    tokens = [1, 2, 3, 4, 5, 9, 1, 2, 3, 4]
    assert _penalties(rows_of(_sequence(tokens, breaker_mask=_mask(5)))[0]) == {}


def test_a_long_repetition_leaves_finite_logits() -> None:
    logits = torch.zeros(V)
    (row,) = rows_of(_sequence([1, 2] * 2000, base=10.0, window=4000, multiplier=100.0))
    _step(row).apply(logits, row)
    assert torch.isfinite(logits).all()
    assert float(logits.min()) <= -1e29


@st.composite
def _breakers(draw: st.DrawFn) -> list[list[int]]:
    return draw(st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=3), max_size=3))


@settings(max_examples=150, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=20),
    steps=st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=4), st.integers(1, 5)), max_size=12),
    allowed_length=st.integers(0, 3),
    window=st.integers(1, 24),
    breakers=_breakers(),
)
def test_penalties_are_those_of_the_definition_at_every_row(
    prompt: list[int],
    steps: list[tuple[list[int], int]],
    allowed_length: int,
    window: int,
    breakers: list[list[int]],
) -> None:
    """steps: a draft, and how many tokens of it and of a fixed text are accepted."""
    params = {"multiplier": 0.7, "base": 1.3, "allowed_length": allowed_length, "window": window}
    single = sum({1 << breaker[0] for breaker in breakers if len(breaker) == 1}).to_bytes(2, "little")
    several = tuple(tuple(breaker) for breaker in breakers if len(breaker) > 1)
    sequence = _sequence(prompt, len(prompt), breaker_mask=single, breaker_sequences=several, **params)
    step = _step(rows_of(sequence)[0])
    for draft, num_accepted in steps:
        sequence.draft = draft
        for num_drafted in range(len(draft) + 1):
            row = rows_of(sequence)[num_drafted]
            expected = dry_penalties([*sequence.tokens, *row.drafted], breakers=breakers, **params)
            assert _penalties(row, step) == pytest.approx(expected)
        sequence.tokens += [*draft, 0, 1, 0, 2, 1][:num_accepted]
        sequence.draft = []


def test_a_row_costs_the_window_and_not_its_square() -> None:
    """The text repeats one token, so every place repeats all that is before it."""
    window = 8192
    sequence = _sequence([1] * 3 * window, 3 * window, window=window)
    (row,) = rows_of(sequence)
    step = _step(row)
    step.apply(torch.zeros(V), row)
    sequence.draft = [1] * 8
    for num_drafted in range(9):
        step.apply(torch.zeros(V), rows_of(sequence)[num_drafted])
    assert len(step.repetitions.tokens) == window
    assert np.array_equal(step.repetitions.lengths(), np.arange(1, window))
