"""How long drafts are planned and become: learned probabilities of acceptance and continuation, and their worth."""

import pytest

from engine.draft_model.model import DraftModel
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.speculation.acceptance import Acceptance
from engine.speculation.cost_model import CostModel
from engine.speculation.lengths import DraftOdds, DraftPlan, choose_lengths
from engine.speculation.proposers import DraftSource
from tests.helpers.drafting import LedgerDraftRunner
from tests.helpers.engines import make_prompt, make_request


def _choose(*candidates: DraftOdds, row_s: float = 0.0, pass_s: float = 0.0, row_budget: int = 100) -> DraftPlan:
    return choose_lengths(
        candidates,
        num_decoding=len(candidates),
        row_budget=row_budget,
        step_s=lambda num_drafted: 0.030 + row_s * num_drafted,
        pass_s=lambda _: pass_s,
    )


def _modeled(acceptance_prob: float, continue_prob: float) -> DraftOdds:
    return DraftOdds([acceptance_prob] * 8, [1.0, *[continue_prob] * 7], needs_passes=True)


def test_a_token_is_drafted_while_it_brings_more_than_the_average() -> None:
    lookup = DraftOdds([0.9] * 8, [1.0] * 8, needs_passes=False)
    assert _choose(lookup).lengths == [8]
    assert 0 < _choose(lookup, row_s=0.010).lengths[0] < 8
    assert _choose(lookup, row_s=0.028) == DraftPlan([0], None)


def test_no_more_is_drafted_than_fits_into_the_step_and_the_likeliest_first() -> None:
    good, bad = (DraftOdds([prob] * 8, [1.0] * 8, needs_passes=False) for prob in (0.9, 0.6))
    assert _choose(bad, good, row_budget=5).lengths == [1, 4]  # 0.6, and 0.9 to 0.66


def test_passes_that_do_not_take_place_cost_nothing() -> None:
    """A draft model that stops where it is unsure is allowed longer drafts than one that continues and is wrong."""
    (careful,) = _choose(_modeled(0.98, 0.8), pass_s=0.010).lengths
    (careless,) = _choose(_modeled(0.98 * 0.8, 1.0), pass_s=0.010).lengths
    assert careless < careful == 8


def test_estimated_rate_counts_expected_rows_and_passes() -> None:
    plan = _choose(DraftOdds([1.0, 1.0], [1.0, 0.5], needs_passes=True), row_s=0.0, pass_s=0.010)
    assert plan == DraftPlan([2], pytest.approx((1 + 1 + 0.5) / (0.030 + 1.5 * 0.010)))


def test_continuing_is_learned_by_position_and_for_draft_models_only() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.observe_length(5, 2)
    first, second, third, *others = acceptance.continue_probs(DraftSource.DRAFT_MODEL, 5)
    assert (first, round(second, 1), round(third, 1)) == (1.0, 1.0, 0.1)
    assert others == [third, third]  # which were never reached
    assert acceptance.continue_probs(DraftSource.NGRAM, 3) == [1.0] * 3


def test_a_position_that_was_hardly_tried_is_like_the_one_before() -> None:
    acceptance = Acceptance()
    for _ in range(200):
        acceptance.observe("a", DraftSource.DRAFT_MODEL, 2, 2)
    assert min(acceptance.acceptance_probs("another", DraftSource.DRAFT_MODEL, 6)) > 0.95
    acceptance.observe("a", DraftSource.DRAFT_MODEL, 3, 2)
    *_, second, third = acceptance.acceptance_probs("another", DraftSource.DRAFT_MODEL, 3)
    assert second - 0.3 < third < second


def test_a_request_that_was_rejected_is_tried_again_after_pauses_that_grow_and_end() -> None:
    acceptance = Acceptance()

    def pause() -> int:
        """Steps until it has the others' probabilities again."""
        for idle_steps in range(1000):
            bad, new = (acceptance.acceptance_probs(id, DraftSource.NGRAM, 1) for id in ("bad", "new"))
            if bad == new:
                return idle_steps
            acceptance.observe_idle("bad", DraftSource.NGRAM)
        raise AssertionError("never")

    pauses = []
    for _ in range(6):
        acceptance.observe("bad", DraftSource.NGRAM, 4, 0)
        pauses.append(pause())
    acceptance.observe("bad", DraftSource.NGRAM, 4, 1)
    assert [*pauses, pause()] == [16, 32, 64, 128, 256, 256, 16]


def _sequence() -> Sequence:
    prompt = make_prompt(8)
    request = make_request("a", prompt, max_tokens=40)
    sequence = Sequence(request, 0, list(prompt), len(prompt), status=SequenceStatus.RUNNING)
    sequence.tables = [list(range(8))]
    return sequence


@pytest.mark.parametrize(("min_path_prob", "length"), [(0.0, 10), (0.5, 4), (0.79, 2), (2.0, 1)])
def test_a_draft_ends_where_its_tokens_together_are_unlikely_to_be_accepted(min_path_prob: float, length: int) -> None:
    """0.8, 0.64, 0.51 and 0.41: the token that makes it so has been computed, and is part of the draft."""
    runner = LedgerDraftRunner(8, 4, 1.0)
    runner.confidence = 0.8
    (draft,), _ = DraftModel(runner, block_size=4, max_len=100).draft([(_sequence(), 10)], min_path_prob=min_path_prob)
    assert len(draft) == runner.num_passes == length


def test_a_small_draft_model_may_catch_up_with_more_tokens_in_the_time_of_a_step() -> None:
    costs = CostModel(relative_size=0.5)
    assert costs.context_tokens(64, max_tokens=1000) == 64  # nothing is known
    costs.steps.observe_prefill(64, 0.640)
    assert costs.context_tokens(64, max_tokens=1000) == 128
    costs.observe_context(100, 0.250)
    assert costs.context_tokens(64, max_tokens=1000) == 256
    assert costs.context_tokens(64, max_tokens=200) == 200
    costs.observe_context(100, 100.0)
    assert costs.context_tokens(64, max_tokens=1000) == 64
