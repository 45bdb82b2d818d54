"""GrammarMasks: what is left of the logits is what each row's grammar allows, natively and with torch."""

from typing import Any

import pytest
import torch

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import ThinkingBudget
from engine.protocol.sampling_params import DryParams
from engine.sampling.grammar_masks import GrammarMasks
from engine.sampling.rows import LogitsRow
from engine.scheduling.sequence import Sequence
from models.kernels.ops import select_operations
from models.kernels.torch.logits import LogitOperations
from tests.helpers.engines import make_request
from tests.helpers.grammars import GRAMMARS, encode, sequence_grammar
from tests.helpers.ledger import EOS_ID, VOCAB_SIZE, allowed_ids
from tests.helpers.logits_rows import rows_of

CPU_OPS = select_operations(torch.float32, torch.device("cpu")).logits()


def _rows(grammar: SequenceGrammar | None, draft: list[int]) -> list[LogitsRow]:
    sequence = Sequence(
        make_request("r", [1], temperature=0.0), seed=0, tokens=[1], num_prompt=1, grammar=grammar, draft=draft
    )
    return rows_of(sequence)


@pytest.mark.parametrize("ops", [LogitOperations(), CPU_OPS], ids=["torch", "cpu"])
def test_rows_keep_what_their_grammars_allow(ops: LogitOperations) -> None:
    compact, numbers = sequence_grammar(GRAMMARS[0]), sequence_grammar(GRAMMARS[3])
    drafted = sequence_grammar(GRAMMARS[3])
    rows = [
        *_rows(None, [3]),
        *_rows(compact, []),
        *_rows(numbers, []),
        *_rows(drafted, encode("012")[:2]),
        *_rows(None, []),
    ]
    logits = torch.randn((len(rows), VOCAB_SIZE), generator=torch.Generator().manual_seed(1))
    expected = logits.clone()
    masks = GrammarMasks(ops)

    masked = masks.apply(logits, rows)

    assert masked == [2, 3, 4, 5, 6]
    for index, row in enumerate(rows):
        grammar = row.grammar
        if grammar is not None:
            with grammar.following(row.drafted) as matches:
                assert matches
                banned = sorted(set(range(VOCAB_SIZE)) - set(allowed_ids(grammar)))
            expected[index, banned] = -torch.inf
    assert torch.equal(logits, expected)
    assert torch.isfinite(logits[2]).nonzero().flatten().tolist() == [compact.forced_next]
    assert masks.take_tally()[0] == 5
    assert masks.take_tally() == (0, 0.0)


@pytest.mark.parametrize("appended", [[], encode("0"), encode("012")])
def test_a_greedy_row_is_left_alone_where_its_best_token_matches_and_else_masked(appended: list[int]) -> None:
    for best_id in range(VOCAB_SIZE):
        grammar = sequence_grammar(GRAMMARS[3])
        grammar.advance(appended, max_tokens=9)
        allowed = set(allowed_ids(grammar))
        rows = _rows(grammar, [])
        logits = torch.randn((1, VOCAB_SIZE), generator=torch.Generator().manual_seed(1))
        logits[0, best_id] = 9.0
        masked = GrammarMasks(CPU_OPS).apply(logits, rows, [best_id])
        assert masked == ([] if best_id in allowed - {EOS_ID} else [0])
        assert logits[0].argmax().item() == best_id or best_id not in allowed


def test_a_row_behind_a_draft_is_left_alone_where_its_best_token_matches() -> None:
    grammar = sequence_grammar(GRAMMARS[3])
    rows = _rows(grammar, encode("012")[:2])
    digit, letter = encode("1")[0], encode("a")[0]
    logits = torch.zeros((3, VOCAB_SIZE))
    assert GrammarMasks(CPU_OPS).apply(logits, rows, [digit, digit, letter]) == [2]
    assert torch.isfinite(logits[:2]).all()
    assert grammar.can_follow(letter)  # what the rows looked at ahead is undone


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7},
        {"logit_bias": {2: 1.0}},
        {"presence_penalty": 0.5},
        {"min_tokens": 2},
        {"bad_words": ((3,),)},
        {"dry": DryParams(multiplier=1.0)},
        {"allowed_token_ids": (3, 4)},
        {"thinking": ThinkingBudget(5, 1, 2)},
    ],
)
def test_a_row_that_needs_more_than_its_best_token_is_masked(fields: dict[str, Any]) -> None:
    grammar = sequence_grammar(GRAMMARS[3])
    request = make_request("r", [1], grammar=GRAMMARS[3], **{"temperature": 0.0, **fields})
    rows = rows_of(Sequence(request, seed=0, tokens=[1], num_prompt=1, grammar=grammar))
    assert GrammarMasks(CPU_OPS).apply(torch.zeros((1, VOCAB_SIZE)), rows, [encode("0")[0]]) == [0]


def test_a_row_behind_a_draft_that_does_not_match_is_left_alone() -> None:
    """Its predecessor's mask rules the drafted token out, so this row is not needed."""
    rows = _rows(sequence_grammar(GRAMMARS[3]), encode("[")[:1])
    logits = torch.zeros((2, VOCAB_SIZE))
    GrammarMasks(CPU_OPS).apply(logits, rows)
    assert torch.isinf(logits[0]).any()
    assert torch.isfinite(logits[1]).all()
