"""Reads that several sequences share in part, that come late, and whose blocks cannot be loaded."""

import dataclasses
import math
from typing import Any

import pytest

from engine.protocol import AbortReason
from engine.scheduling.kv.moves import AttachedTier, BlockLoad
from engine.scheduling.kv.tier_options import TierOptions
from engine.scheduling.plan import StepPlan, StepResult
from engine.scheduling.scheduler import Scheduler
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_engine, make_prompt, make_request
from tests.helpers.ledger import BLOCK_BYTES
from tests.helpers.local_client import LocalClient
from tests.helpers.memory_tier import MemoryTier

pytestmark = pytest.mark.fast

PROMPT = make_prompt(41)  # ten blocks and a token


def add(run: SchedulerRun, name: str, prompt: list[int], **fields: Any) -> None:
    run.add(make_request(name, prompt, **{"max_tokens": 2, "ignore_eos": True, **fields}))


def evicted_run(tier: MemoryTier, *, prefill_s: float = math.inf, **options: Any) -> SchedulerRun:
    """A run with a pool of twelve blocks, from which another prompt has evicted PROMPT.

    prefill_s: estimated time of computing any tokens.
    """
    config = make_config(num_blocks=12, max_num_batched_tokens=64)
    run = SchedulerRun(config, tier=tier, read_steps=1000, **options)
    for name, prompt in (("first", PROMPT), ("other", make_prompt(45, seed=1))):
        add(run, name, prompt)
        run.finish()
    tier_options = TierOptions(tier, (BLOCK_BYTES,), 20 * BLOCK_BYTES, prefill_s=lambda _start, _num: prefill_s)
    run.scheduler = Scheduler(config, tier=tier_options, clock=lambda: run.now_s)
    return run


def num_read(tier: MemoryTier) -> list[int]:
    """How many blocks each read that runs has."""
    return [len(keys) for keys, future in tier.reads if not future.cancelled()]


def cached(run: SchedulerRun, name: str) -> int:
    return run.transcript.last[name].num_cached_tokens


def test_a_longer_prefix_shares_a_read_and_reads_the_rest() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier)
    add(run, "short", PROMPT[:17])
    add(run, "long", PROMPT)
    assert num_read(tier) == [4, 6]
    tier.finish()
    run.finish()
    assert (cached(run, "short"), cached(run, "long")) == (16, 40)


def test_a_prefix_whose_beginning_was_evicted_meanwhile_is_not_read_twice() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier)
    keys = list(tier.blocks)
    withheld = {key: tier.blocks.pop(key) for key in keys[:3]}
    run.scheduler._kv.pool._blocks_by_digest |= dict.fromkeys(withheld, 0)  # as if they were in the pool
    add(run, "a", PROMPT)
    for key in withheld:
        del run.scheduler._kv.pool._blocks_by_digest[key]
    tier.blocks |= withheld
    add(run, "b", PROMPT)
    assert num_read(tier) == [7, 3]
    tier.finish()
    run.finish()
    assert cached(run, "b") == 40


def test_a_sequence_waits_for_all_its_reads() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier)
    add(run, "short", PROMPT[:17])
    add(run, "long", PROMPT)
    (shorter, longer), tier.reads = tier.reads, []
    tier.reads = [shorter]
    tier.finish()
    run.step()
    run.step()
    assert "short" in run.transcript.ids
    assert "long" not in run.transcript.ids
    tier.reads = [longer]
    tier.finish()
    run.finish()
    assert cached(run, "long") == 40


def test_a_sequence_computes_what_is_not_read_in_the_time_of_computing() -> None:
    """And reads nothing as long as the disk hangs; afterwards it does again."""
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier, prefill_s=2.0)
    add(run, "again", PROMPT)
    tier.reads[0][1].set_running_or_notify_cancel()  # too late to cancel it
    assert run.scheduler.seconds_to_deadline == 2.0
    run.now_s += 1.9
    assert not run.scheduler.has_work
    run.now_s += 0.2
    assert run.scheduler.has_work
    for _ in range(2):
        run.step()
    assert (cached(run, "again"), run.transcript.ids["again"]) == (0, run.transcript.ids["first"])
    add(run, "other again", make_prompt(45, seed=1))
    assert run.scheduler.has_work
    assert num_read(tier) == [10]
    tier.finish()
    run.finish()
    add(run, "third", PROMPT)
    assert num_read(tier) == [10]
    tier.finish()
    run.finish()
    assert cached(run, "third") == 40


def test_reads_behind_a_late_one_are_canceled_and_what_was_read_is_used() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier, prefill_s=2.0)
    add(run, "short", PROMPT[:17])
    add(run, "long", PROMPT)
    (shorter, longer), tier.reads = tier.reads, []
    tier.reads = [shorter]
    tier.finish()
    run.step()
    tier.reads = [longer]
    run.now_s += 2.1
    run.finish()
    assert longer[1].cancelled()
    assert cached(run, "long") == 16


def test_a_read_is_late_for_those_alone_that_need_less_of_it() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier)
    reads = run.scheduler._kv.tier_reads
    assert reads is not None
    reads._options = dataclasses.replace(reads._options, prefill_s=lambda _start, num_tokens: float(num_tokens))
    add(run, "long", PROMPT)
    add(run, "short", PROMPT[:17])
    run.now_s += 17
    for _ in range(2):
        run.step()
    assert cached(run, "short") == 0
    assert reads._num_late == 0  # else nothing is looked up for others
    tier.finish()
    run.finish()
    assert cached(run, "long") == 40


def test_a_canceled_read_is_not_shared() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier)
    add(run, "again", PROMPT)
    run.scheduler.abort("again", AbortReason.CLIENT_GONE)
    run.scheduler.update(run.scheduler.schedule(), StepResult([]))
    add(run, "more", PROMPT)
    assert num_read(tier) == [10]
    tier.finish()
    run.finish()
    assert cached(run, "more") == 40


def test_blocks_that_memory_has_no_room_to_load_are_computed(caplog: pytest.LogCaptureFixture) -> None:
    tier = MemoryTier()
    engine, _ = make_engine(num_blocks=40, max_num_batched_tokens=32, tier=tier, writes_through=True)
    other, _ = make_engine(num_blocks=40, max_num_batched_tokens=32, tier=tier)
    requests = [make_request(name, PROMPT[:25], max_tokens=2) for name in "ab"]
    LocalClient(engine).generate(requests[:1])
    assert isinstance(other._tier, AttachedTier)

    def fail(_: list[BlockLoad]) -> None:
        raise MemoryError("made to fail")

    other._tier.mover.load = fail  # type: ignore[method-assign]
    outputs = LocalClient(other).generate(requests)
    assert {name: output.new_ids for name, output in outputs.items()} == {
        request.id: expected_ids(request) for request in requests
    }
    assert tier.num_read == 6
    assert caplog.text.count("memory ran out while 6 blocks were loaded") == 1


def test_an_admitted_sequence_without_tokens_computes_what_was_not_loaded() -> None:
    """Others may have all tokens of the step in which it is admitted."""
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier)
    add(run, "again", PROMPT)
    tier.finish()
    plan = run.scheduler.schedule()
    assert plan.moves is not None
    assert plan.moves.loads
    run.scheduler.withdraw(StepPlan([], moves=plan.moves), is_loaded=False)
    run.finish()
    assert run.transcript.ids["again"] == run.transcript.ids["first"]
