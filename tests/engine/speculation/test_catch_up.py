"""A draft model's context: computed where the rest of the output is worth it, a bounded part of it in each step."""

from collections.abc import Iterable
from typing import Any

from engine.engine import Engine
from engine.protocol import EngineRequest
from engine.scheduling.sequence import Sequence
from engine.speculation.catch_up import plan_chunks
from engine.speculation.proposers import LookupProposer
from tests.helpers.drafting import LedgerDraftRunner, Oracle, PricedDraftModel, Timed, generate, speculating_engine
from tests.helpers.engines import expected_ids, make_prompt, make_request
from tests.helpers.memory_tier import MemoryTier

BLOCK = 4
SIZES: dict[str, Any] = {"num_blocks": 1024, "block_size": BLOCK, "max_num_batched_tokens": 512, "max_model_len": 1200}


class Plans(LedgerDraftRunner):
    """Records (ids, rows) of each pass that drafts nothing."""

    def __init__(self) -> None:
        super().__init__(SIZES["num_blocks"], BLOCK, 1.0)
        self.contexts: list[tuple[list[str], int]] = []

    def next_tokens(self, plan: Any) -> Any:
        if not any(item.needs_logits for item in plan.items):
            self.contexts.append(([item.sequence.id for item in plan.items], plan.num_tokens))
        return super().next_tokens(plan)


def _engine(max_len: int = 2000, lookups: Iterable[LookupProposer] = (), **options: Any) -> tuple[Engine, Plans]:
    runner = Plans()
    drafter = PricedDraftModel(runner, block_size=BLOCK, max_len=max_len, relative_size=0.05)
    return speculating_engine(Timed(4, lookups=lookups, drafter=drafter), **{**SIZES, **options})[0], runner


def _request(id: str, num_prompt: int, max_tokens: int) -> EngineRequest:
    return make_request(id, make_prompt(num_prompt, seed=sum(id.encode())), max_tokens=max_tokens, ignore_eos=True)


def test_a_long_prompt_with_a_short_answer_costs_the_draft_model_nothing() -> None:
    engine, runner = _engine()
    generate(engine, [_request("learn", 100, 60)])  # what its context costs
    before = runner.num_rows
    request = _request("a", 1000, 8)
    ids, _ = generate(engine, [request])
    assert ids["a"] == expected_ids(request)
    assert runner.num_rows == before


def test_a_lookup_drafts_where_the_draft_model_would_have_to_catch_up() -> None:
    engine, runner = _engine(lookups=[Oracle(0.6)])
    generate(engine, [_request("learn", 100, 60)])
    before = runner.num_rows
    _, client = generate(engine, [_request("a", 1000, 8)])
    assert runner.num_rows == before
    assert sum(step.draft_tokens for step in client.steps) > 0


def test_a_long_answer_is_worth_the_context() -> None:
    engine, runner = _engine()
    generate(engine, [_request("learn", 100, 60)])
    _, client = generate(engine, [_request("a", 400, 200)])
    assert sum(rows for ids, rows in runner.contexts if ids == ["a"]) > 380
    assert sum(step.accepted_tokens for step in client.steps) > 100


def test_blocks_that_were_read_from_a_tier_are_caught_up_with() -> None:
    """They hold keys and values of the target alone; the ledger of drafts checks every slot that a draft reads."""
    tier, request = MemoryTier(), _request("a", 400, 200)
    generate(_engine(tier=tier, writes_through=True)[0], [request])
    engine, _ = _engine(tier=tier, writes_through=True)
    generate(engine, [_request("learn", 100, 60)])
    _, client = generate(engine, [request])
    assert sum(step.tier_restored_tokens for step in client.steps) == 396
    assert sum(step.accepted_tokens for step in client.steps) > 100


def test_others_wait_no_longer_than_a_step() -> None:
    engine, runner = _engine()
    generate(engine, [_request("learn", 100, 60)])
    engine.add(_request("decodes", 10, 150))
    for _ in range(10):
        engine.step()
    runner.contexts.clear()
    engine.add(_request("a", 300, 200))
    while engine.has_work:
        engine.step()
    rows = [rows for ids, rows in runner.contexts if "a" in ids]
    assert sum(rows) > 280
    assert max(rows) <= (30 + 2 * 1 + 5) / (1000 * PricedDraftModel.token_s)  # what Timed says of a step, in tokens


def test_no_pass_has_more_tokens_than_a_step_may_have() -> None:
    engine, runner = _engine(max_num_batched_tokens=64)
    generate(engine, [_request("learn", 100, 60)])
    runner.contexts.clear()
    engine._speculator._costs.steps.observe_prefill(64, 64 * 10 * PricedDraftModel.token_s)  # the draft is that small
    generate(engine, [_request("a", 400, 200)])
    assert sum(rows for _, rows in runner.contexts) > 380
    assert max(rows for _, rows in runner.contexts) == 64


def test_catching_up_waits_until_a_step_has_been_measured() -> None:
    """A sequence that decodes beside a long prompt may be a candidate before any decoding step was timed."""
    engine, _ = _engine(long_prefill_token_threshold=1)
    requests = [_request("a", 20, 40), _request("b", 90, 60)]
    ids, client = generate(engine, requests)
    assert ids == {request.id: expected_ids(request) for request in requests}
    assert sum(step.draft_tokens for step in client.steps) > 0


def test_contexts_are_computed_together() -> None:
    engine, runner = _engine()
    generate(engine, [_request("learn", 100, 60)])
    runner.contexts.clear()
    generate(engine, [_request(id, 60, 100) for id in ("a", "b", "c")])
    assert next(ids for ids, _ in runner.contexts) == ["a", "b", "c"]


def test_a_sequence_beyond_the_draft_models_context_holds_no_blocks_for_drafts() -> None:
    engine, runner = _engine(max_len=30)
    engine.add(_request("a", 20, 60))
    while engine.has_work:
        engine.step()
        for sequence in engine._scheduler.running:
            assert len(sequence.tables[0]) <= -(-max(len(sequence.tokens), 30) // BLOCK)
    assert sum(rows for _, rows in runner.contexts) <= 30


def test_a_sequence_with_tokens_that_the_draft_model_does_not_know_is_not_drafted() -> None:
    engine, runner = _engine()
    request = make_request("a", [*make_prompt(20), 99], max_tokens=30, ignore_eos=True)
    _, client = generate(engine, [request])
    assert runner.num_passes == 0
    assert sum(step.draft_tokens for step in client.steps) == 0


def test_chunks_fill_the_budget_in_order() -> None:
    sequences = [Sequence(_request(id, 5, 5), 0, [1] * 5, 5) for id in "abc"]
    behind = list(zip(sequences, (40, 100, 30), strict=True))
    assert [n for _, n in plan_chunks(behind, 500, seconds_per_token=0.001, max_s=None)] == [40, 100, 30]
    assert [n for _, n in plan_chunks(behind, 500, seconds_per_token=0.001, max_s=0.06)] == [40, 20]
    assert [n for _, n in plan_chunks(behind, 500, seconds_per_token=1.0, max_s=0.06)] == [16]
    assert [n for _, n in plan_chunks(behind, 50, seconds_per_token=0.0, max_s=0.06)] == [40, 10]
    assert plan_chunks(behind, 0, seconds_per_token=0.001, max_s=None) == []
