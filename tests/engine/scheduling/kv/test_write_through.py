"""--kv-persist: blocks reach the tier as they are computed, and another engine continues from them."""

from typing import Any

import pytest

from engine.engine import Engine
from engine.protocol import AbortReason, EngineRequest, FinishReason, ServiceClass, StepStats
from tests.helpers.engines import expected_ids, make_engine, make_prompt, make_request
from tests.helpers.ledger import LedgerRunner
from tests.helpers.memory_tier import MemoryTier

pytestmark = pytest.mark.fast

BLOCK_SIZE = 4


def run(engine: Engine, request: EngineRequest) -> list[StepStats]:
    """Compute a request to its end, and check its tokens."""
    ids: list[int] = []
    stats = []
    engine.add(request)
    while engine.has_work or engine.is_preparing:
        if not engine.has_work:
            engine.wait_for_prepared()
        outputs = engine.step()
        stats.append(outputs.stats)
        ids += [id for output in outputs.outputs for id in output.new_ids]
    assert ids == expected_ids(request)
    return stats


def persisting(tier: MemoryTier, **options: Any) -> tuple[Engine, LedgerRunner]:
    return make_engine(block_size=BLOCK_SIZE, tier=tier, writes_through=True, **options)


def test_all_full_blocks_are_written_when_a_request_has_ended() -> None:
    tier = MemoryTier()
    engine, _ = persisting(tier)
    run(engine, make_request("a", make_prompt(18), max_tokens=9))
    assert len(tier.blocks) == (18 + 9 - 1) // BLOCK_SIZE
    assert not engine.has_work


def test_without_the_option_nothing_is_written_before_it_is_evicted() -> None:
    tier = MemoryTier()
    engine, _ = make_engine(block_size=BLOCK_SIZE, tier=tier)
    run(engine, make_request("a", make_prompt(18)))
    assert not tier.blocks


def test_the_next_engine_reads_what_the_last_one_computed() -> None:
    tier = MemoryTier()
    prompt = make_prompt(30)
    first = run(persisting(tier)[0], make_request("a", prompt))
    second = run(persisting(tier)[0], make_request("a", prompt))
    assert sum(stats.prefill_tokens for stats in first) == 30
    assert sum(stats.prefill_tokens for stats in second) == 2
    assert sum(stats.tier_queried_tokens for stats in second) == 28
    assert sum(stats.tier_restored_tokens for stats in second) == 28


def test_blocks_of_windows_are_written_once_their_request_has_ended() -> None:
    tier = MemoryTier()
    prompt = make_prompt(40)
    windows = {"windows": (None, 8)}
    run(persisting(tier, **windows)[0], make_request("a", prompt))
    second = run(persisting(tier, **windows)[0], make_request("a", [*prompt, *range(20)]))
    full, windowed = (sum(key[-1] == group for key in tier.blocks) for group in (0, 1))
    assert full > windowed > 0
    assert sum(stats.tier_restored_tokens for stats in second) >= 40


def test_blocks_of_batches_are_not_written() -> None:
    tier = MemoryTier()
    engine, _ = persisting(tier)
    run(engine, make_request("a", make_prompt(18), service_class=ServiceClass.BATCH))
    assert not tier.blocks


def test_a_prefix_that_the_pool_still_has_counts_as_used_in_the_tier() -> None:
    tier = MemoryTier()
    engine, _ = persisting(tier)
    run(engine, make_request("a", make_prompt(18, seed=1), max_tokens=1))
    oldest = list(tier.blocks)
    run(engine, make_request("b", make_prompt(18, seed=2), max_tokens=1))
    run(engine, make_request("c", make_prompt(18, seed=1), max_tokens=1))
    assert list(tier.blocks)[-len(oldest) :] == oldest


def test_a_step_without_memory_copies_no_blocks_for_the_tier() -> None:
    """Nor does it matter that there is work when the moves are taken: a time limit may end at any moment."""
    engine, _ = persisting(MemoryTier(), windows=(None, 8))
    engine.add(make_request("a", make_prompt(40), max_tokens=9))
    engine.step()
    scheduler = engine._scheduler
    scheduler.withdraw(scheduler.schedule())
    assert scheduler.has_work
    assert scheduler.take_moves() is None


def test_a_request_that_ends_before_it_is_computed_has_nothing_to_write() -> None:
    tier = MemoryTier()
    engine, _ = persisting(tier, max_num_seqs=1)
    engine.add(make_request("a", make_prompt(18), max_tokens=9))
    engine.step()
    engine.add(make_request("b", make_prompt(9)))
    engine.abort("b", AbortReason.CLIENT_GONE)
    ends = [output for _ in range(12) for output in engine.step().outputs if output.finish_reason is not None]
    assert [(each.id, each.finish_reason) for each in ends] == [("b", FinishReason.ABORT), ("a", FinishReason.LENGTH)]
    assert len(tier.blocks) == (18 + 9 - 1) // BLOCK_SIZE
