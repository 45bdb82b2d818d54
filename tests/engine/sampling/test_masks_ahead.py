"""Masks computed while the model runs: the same, and no grammar is used by two threads at once."""

import threading
from collections.abc import Sequence as Rows
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sampling.mask_writer import MaskWriter
from engine.sampling.masks_ahead import NO_MASKS, MasksAhead
from engine.sampling.rows import LogitsRow
from engine.sampling.sampler import Sampler
from engine.scheduling.sequence import Sequence
from tests.helpers.engines import make_request
from tests.helpers.grammars import GRAMMARS, encode, sequence_grammar
from tests.helpers.ledger import EOS_ID, VOCAB_SIZE
from tests.helpers.logits_rows import rows_of
from tests.helpers.threads import NewThreads


class _HeldWriter(MaskWriter):
    """Writes when it is released."""

    def __init__(self) -> None:
        super().__init__(num_threads=1)
        self.may_go = threading.Event()
        self.has_written = False

    def masks(self, rows: Rows[LogitsRow], vocab_size: int) -> np.ndarray:
        assert self.may_go.wait(30)
        masks = super().masks(rows, vocab_size)
        self.has_written = True
        return masks


def _sequence(grammar: str, id: str = "r", draft: list[int] | None = None, **fields: Any) -> Sequence:
    request = make_request(id, [1], grammar=grammar, **fields)
    place = sequence_grammar(grammar)
    return Sequence(request, seed=5, tokens=[1], num_prompt=1, grammar=place, draft=draft or [])


def test_masks_are_computed_beside_other_work_and_waited_for_when_they_are_taken() -> None:
    writer = _HeldWriter()
    rows = rows_of(_sequence(GRAMMARS[1], "other"), _sequence(GRAMMARS[3]))
    pending = MasksAhead(writer).start(rows, [1], VOCAB_SIZE)
    assert not writer.has_written  # the caller continues meanwhile
    writer.may_go.set()
    mask_of_row, masks = pending.take()
    assert mask_of_row == {1: 0}
    assert masks is not None
    assert np.array_equal(masks, MaskWriter(1).masks(rows[1:], VOCAB_SIZE))
    assert pending.take() == ({}, None)


def test_a_step_that_fails_waits_until_the_grammars_are_free() -> None:
    writer = _HeldWriter()
    pending = MasksAhead(writer).start(rows_of(_sequence(GRAMMARS[3])), [0], VOCAB_SIZE)
    threading.Timer(0.05, writer.may_go.set).start()
    pending.wait()
    assert writer.has_written


def test_an_error_of_computing_masks_is_raised_where_they_are_taken_and_only_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> np.ndarray:
        raise RuntimeError("no mask")

    writer = MaskWriter(1)
    monkeypatch.setattr(writer, "masks", fail)
    ahead = MasksAhead(writer)
    rows = rows_of(_sequence(GRAMMARS[3]))
    with pytest.raises(RuntimeError, match="no mask"):
        ahead.start(rows, [0], VOCAB_SIZE).take()
    ahead.start(rows, [0], VOCAB_SIZE).wait()


def test_without_rows_no_thread_is_started() -> None:
    threads = NewThreads()
    ahead = MasksAhead(MaskWriter(1))
    assert ahead.start([], [], VOCAB_SIZE).take() == ({}, None)
    assert threads.names("grammar-masks") == []
    pending = ahead.start(rows_of(_sequence(GRAMMARS[3])), [0], VOCAB_SIZE)
    assert len(threads.names("grammar-masks")) == 1
    pending.wait()


_FIELDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 3},
    {"temperature": 1.0, "top_k": 30, "top_p": 0.9},
    {"temperature": 1.0, "presence_penalty": 0.5},
    {"temperature": 0.0, "logit_bias": {2: 1.0}},
    {"temperature": 1.0, "min_p": 0.1},
]


@settings(deadline=None, max_examples=100)
@given(
    chosen=st.lists(
        st.tuples(st.sampled_from(GRAMMARS), st.sampled_from(_FIELDS), st.booleans()), min_size=1, max_size=5
    ),
    seed=st.integers(0, 10_000),
)
def test_tokens_are_the_same_with_masks_ahead_and_without(
    chosen: list[tuple[str, dict[str, Any], bool]], seed: int
) -> None:
    """Step after step, with drafts that are verified and forced tokens that are appended."""

    def outputs(is_ahead: bool) -> list[list[int]]:
        sampler = Sampler([EOS_ID])
        generator = torch.Generator().manual_seed(seed)
        sequences = [
            _sequence(grammar, str(number), max_tokens=12, **fields)
            for number, (grammar, fields, _) in enumerate(chosen)
        ]
        running = list(sequences)
        for _ in range(6):
            for sequence, (_, _, has_draft) in zip(sequences, chosen, strict=True):
                grammar = sequence.grammar
                assert grammar is not None
                draft = encode("012")[:1] + encode("a") if has_draft else []
                sequence.draft = draft[: grammar.num_matching(draft)] if not grammar.is_complete else []
            running = [s for s in running if s.grammar is not None and not s.grammar.is_complete]
            if not running:
                break
            num_rows = sum(len(s.draft) + 1 for s in running)
            logits = torch.randn((num_rows, VOCAB_SIZE), generator=generator) * 3
            rows = rows_of(*running)
            masks = sampler.masks.start(rows, VOCAB_SIZE) if is_ahead else NO_MASKS
            results = sampler.sample(logits, rows, None, masks)
            for sequence, result in zip(running, results, strict=True):
                assert sequence.grammar is not None
                sequence.tokens += sequence.grammar.advance(result.token_ids, max_tokens=12)
                sequence.draft = []
        return [sequence.tokens for sequence in sequences]

    assert outputs(is_ahead=True) == outputs(is_ahead=False)
