"""GrammarMasks: what is left of the logits is what each row's grammar allows, natively and with torch."""

import pytest
import torch

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.sampling.grammar_masks import GrammarMasks
from engine.sampling.rows import LogitsRow
from engine.scheduling.sequence import Sequence
from models.kernels import sampling as native
from tests.helpers.engines import make_request
from tests.helpers.grammars import GRAMMARS, encode, sequence_grammar
from tests.helpers.ledger import VOCAB_SIZE, allowed_ids


def _rows(grammar: SequenceGrammar | None, draft: list[int]) -> list[LogitsRow]:
    sequence = Sequence(make_request("r", [1]), seed=0, tokens=[1], num_prompt=1, grammar=grammar, draft=draft)
    return [LogitsRow(sequence, num_drafted) for num_drafted in range(len(draft) + 1)]


@pytest.mark.parametrize("is_native", [True, False])
def test_rows_keep_what_their_grammars_allow(is_native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_native:
        monkeypatch.setattr(native, "sampling_library", lambda _: None)
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
    masks = GrammarMasks()

    masked = masks.apply(logits, rows)

    assert masked == [2, 3, 4, 5, 6]
    for index, row in enumerate(rows):
        grammar = row.sequence.grammar
        if grammar is not None:
            with grammar.following(row.drafted) as matches:
                assert matches
                banned = sorted(set(range(VOCAB_SIZE)) - set(allowed_ids(grammar)))
            expected[index, banned] = -torch.inf
    assert torch.equal(logits, expected)
    assert torch.isfinite(logits[2]).nonzero().flatten().tolist() == [compact.forced_next]
    assert masks.take_tally()[0] == 5
    assert masks.take_tally() == (0, 0.0)


def test_a_row_behind_a_draft_that_does_not_match_is_left_alone() -> None:
    """Its predecessor's mask rules the drafted token out, and nobody needs this row."""
    rows = _rows(sequence_grammar(GRAMMARS[3]), encode("[")[:1])
    logits = torch.zeros((2, VOCAB_SIZE))
    GrammarMasks().apply(logits, rows)
    assert torch.isinf(logits[0]).any()
    assert torch.isfinite(logits[1]).all()
