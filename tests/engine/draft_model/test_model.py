"""DraftModel: which blocks it takes for computed. The ledger checks whatever it reads there."""

from engine.draft_model.model import DraftModel
from engine.scheduling.kv.prefixes import root_digest, unit_digest
from engine.scheduling.sequence import Sequence, SequenceStatus
from tests.helpers.drafting import LedgerDraftRunner
from tests.helpers.engines import make_prompt, make_request
from tests.helpers.ledger import next_token

SIZE = 4


def _sequence(id: str, tokens: list[int], blocks: list[int]) -> Sequence:
    request = make_request(id, tokens, max_tokens=40)
    hashes, parent = [], root_digest("")
    for start in range(0, len(tokens) - SIZE + 1, SIZE):
        parent = unit_digest(parent, tokens[start : start + SIZE])
        hashes.append(parent)
    sequence = Sequence(request, 0, list(tokens), len(tokens), status=SequenceStatus.RUNNING)
    sequence.tables, sequence.unit_hashes = [blocks], hashes
    return sequence


def test_a_block_is_known_for_what_was_written_last_and_for_nothing_else() -> None:
    runner = LedgerDraftRunner(8, SIZE, 1.0)
    drafter = DraftModel(runner, block_size=SIZE, max_len=100)

    def num_rows(id: str, tokens: list[int], blocks: list[int]) -> int:
        """Rows that the draft model computes to draft one token."""
        before = runner.num_rows
        sequence = _sequence(id, tokens, blocks)
        drafter.draft([(sequence, 1)], min_path_prob=0.0)
        drafter.max_draft_len(sequence)  # registers the blocks that it has filled
        drafter.release(sequence)
        return runner.num_rows - before

    text = make_prompt(12)
    assert num_rows("first", text, [0, 1, 2]) == 12
    assert num_rows("again", text, [0, 1, 3]) == 4  # the last token is never taken for known
    assert num_rows("part of a block", make_prompt(3, seed=1), [1]) == 3
    assert num_rows("after it", text, [0, 1, 4]) == 8
    assert num_rows("another text", make_prompt(12, seed=2), [0, 5, 6]) == 12


def test_a_draft_that_the_target_drops_and_then_finds_itself_leaves_a_token_to_compute() -> None:
    drafter = DraftModel(LedgerDraftRunner(8, SIZE, 1.0), block_size=SIZE, max_len=100)
    sequence = _sequence("dropped", make_prompt(3), [0, 1, 2])
    ((first, *_),), _ = drafter.draft([(sequence, 4)], min_path_prob=0.0)
    sequence.tokens.append(first)

    ((second, *_),), _ = drafter.draft([(sequence, 2)], min_path_prob=0.0)

    assert second == next_token(sequence.tokens, sequence.seed)


def test_catching_up_skips_what_another_sequence_has_computed_since_it_was_planned() -> None:
    runner = LedgerDraftRunner(10, SIZE, 1.0)
    drafter = DraftModel(runner, block_size=SIZE, max_len=100)
    text = make_prompt(24)
    first, second = _sequence("first", text, [0, 1, 2, 3, 4, 5]), _sequence("second", text, [0, 1, 2, 3, 4, 6])
    drafter.catch_up([(first, drafter.num_behind(first))])
    num_behind = drafter.num_behind(second)
    drafter.num_behind(first)  # registers its blocks, of which the second shares five
    before = runner.num_rows

    seconds = drafter.catch_up([(second, num_behind)])

    assert num_behind == 23
    assert runner.num_rows - before == 3
    assert seconds is None  # they were of other tokens than those that were planned
    assert drafter.catch_up([(second, num_behind)]) is None
    assert runner.num_rows - before == 3
