"""How long drafts are chosen and become: chances of standing and of going on, learned, and what they are worth."""

import pytest

from engine.draft_model.model import DraftModel
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.speculation.acceptance import Acceptance
from engine.speculation.cost_model import Costs
from engine.speculation.lengths import Candidate, Choice, choose_lengths
from engine.speculation.proposers import Source
from tests.helpers.drafting import LedgerDraftRunner
from tests.helpers.engines import make_prompt, make_request


def _choose(*candidates: Candidate, row_s: float = 0.0, pass_s: float = 0.0, row_budget: int = 100) -> Choice:
    return choose_lengths(
        candidates,
        num_decoding=len(candidates),
        row_budget=row_budget,
        step_s=lambda num_drafted: 0.030 + row_s * num_drafted,
        pass_s=lambda _: pass_s,
    )


def _modeled(stands: float, goes_on: float) -> Candidate:
    return Candidate([stands] * 8, [1.0, *[goes_on] * 7], needs_passes=True)


def test_a_token_is_drafted_while_it_brings_more_than_the_average() -> None:
    lookup = Candidate([0.9] * 8, [1.0] * 8, needs_passes=False)
    assert _choose(lookup).lengths == [8]
    assert 0 < _choose(lookup, row_s=0.010).lengths[0] < 8
    assert _choose(lookup, row_s=0.028) == Choice([0], None)


def test_no_more_is_drafted_than_the_step_has_room_for_and_the_likeliest_first() -> None:
    good, bad = (Candidate([stands] * 8, [1.0] * 8, needs_passes=False) for stands in (0.9, 0.6))
    assert _choose(bad, good, row_budget=5).lengths == [1, 4]  # 0.6, and 0.9 to 0.66


def test_passes_that_do_not_take_place_cost_nothing() -> None:
    """A draft model that stops where it is unsure is allowed longer drafts than one that goes on and is wrong."""
    (careful,) = _choose(_modeled(0.98, 0.8), pass_s=0.010).lengths
    (careless,) = _choose(_modeled(0.98 * 0.8, 1.0), pass_s=0.010).lengths
    assert careless < careful == 8


def test_estimated_rate_counts_rows_and_passes_to_be_expected() -> None:
    choice = _choose(Candidate([1.0, 1.0], [1.0, 0.5], needs_passes=True), row_s=0.0, pass_s=0.010)
    assert choice == Choice([2], pytest.approx((1 + 1 + 0.5) / (0.030 + 1.5 * 0.010)))


def test_going_on_is_learned_by_place_and_for_draft_models_only() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.observe_length(5, 2)
    first, second, third, *others = acceptance.going(Source.DRAFT_MODEL, 5)
    assert (first, round(second, 1), round(third, 1)) == (1.0, 1.0, 0.1)
    assert others == [third, third]  # which were never reached
    assert acceptance.going(Source.NGRAM, 3) == [1.0] * 3


def test_a_place_that_was_hardly_tried_is_like_the_one_before() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.observe("a", Source.DRAFT_MODEL, 2, 2)
    assert min(acceptance.chances("another", Source.DRAFT_MODEL, 6)) > 0.95
    acceptance.observe("a", Source.DRAFT_MODEL, 3, 2)
    *_, second, third = acceptance.chances("another", Source.DRAFT_MODEL, 3)
    assert second - 0.3 < third < second


def test_a_request_that_was_refused_is_tried_again_after_pauses_that_grow_and_end() -> None:
    acceptance = Acceptance()

    def pause() -> int:
        """Steps until it has the others' chances again."""
        for num_idle in range(1000):
            if acceptance.chances("bad", Source.NGRAM, 1) == acceptance.chances("new", Source.NGRAM, 1):
                return num_idle
            acceptance.observe_idle("bad", Source.NGRAM)
        raise AssertionError("never")

    pauses = []
    for _ in range(6):
        acceptance.observe("bad", Source.NGRAM, 4, 0)
        pauses.append(pause())
    acceptance.observe("bad", Source.NGRAM, 4, 1)
    assert [*pauses, pause()] == [16, 32, 64, 128, 256, 256, 16]


def _sequence() -> Sequence:
    prompt = make_prompt(8)
    request = make_request("a", prompt, max_tokens=40)
    sequence = Sequence(request, 0, list(prompt), len(prompt), status=SequenceStatus.RUNNING)
    sequence.tables = [list(range(8))]
    return sequence


@pytest.mark.parametrize(("least_reach", "length"), [(0.0, 10), (0.5, 4), (0.79, 2), (2.0, 1)])
def test_a_draft_ends_where_its_tokens_together_are_unlikely_to_stand(least_reach: float, length: int) -> None:
    """0.8, 0.64, 0.51 and 0.41: the token that makes it so has been computed, and is part of the draft."""
    runner = LedgerDraftRunner(8, 4, 1.0)
    runner.confidence = 0.8
    (draft,), _ = DraftModel(runner, block_size=4, max_len=100).draft([(_sequence(), 10)], least_reach=least_reach)
    assert len(draft) == runner.num_passes == length


def test_a_small_draft_model_may_catch_up_with_more_tokens_in_the_time_of_a_step() -> None:
    costs = Costs(relative_size=0.5)
    assert costs.context_tokens(64, most=1000) == 64  # nothing is known
    costs._steps.observe_prefill(64, 0.640)
    assert costs.context_tokens(64, most=1000) == 128
    costs.observe_context(100, 0.250)
    assert costs.context_tokens(64, most=1000) == 256
    assert costs.context_tokens(64, most=200) == 200
    costs.observe_context(100, 100.0)
    assert costs.context_tokens(64, most=1000) == 64
