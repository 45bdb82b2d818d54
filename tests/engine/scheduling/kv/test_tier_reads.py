"""Reads from a tier: who waits for them, who shares them, and when they are not made."""

from typing import Any

import pytest

from engine.protocol import AbortReason, FinishReason, ServiceClass
from engine.protocol.sequence_events import WaitReason
from engine.scheduling.kv.moves import AttachedTier
from engine.scheduling.kv.tier_options import ReadPace, TierOptions
from engine.scheduling.plan import StepResult
from engine.scheduling.scheduler import Scheduler
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_engine, make_prompt, make_request
from tests.helpers.ledger import BLOCK_BYTES
from tests.helpers.local_client import LocalClient
from tests.helpers.memory_tier import MemoryTier

pytestmark = pytest.mark.fast

PROMPT = make_prompt(21)  # five blocks and a token


def add(run: SchedulerRun, name: str, prompt: list[int], **fields: Any) -> None:
    run.add(make_request(name, prompt, **{"max_tokens": 2, "ignore_eos": True, **fields}))


def evicted_run(tier: MemoryTier, **options: Any) -> SchedulerRun:
    """A run with a pool of eight blocks, from which another prompt has evicted PROMPT."""
    run = SchedulerRun(make_config(num_blocks=8, max_num_batched_tokens=32), tier=tier, **options)
    for name, prompt in (("first", PROMPT), ("other", make_prompt(29, seed=1))):
        add(run, name, prompt)
        run.finish()
    return run


def cached(run: SchedulerRun, name: str) -> int:
    return run.transcript.last[name].num_cached_tokens


def test_an_evicted_prefix_comes_back() -> None:
    run = evicted_run(MemoryTier())
    assert len(run.tier.blocks if run.tier else ()) == 5
    add(run, "again", PROMPT)
    run.finish()
    assert cached(run, "again") == 20
    assert sum(stats.prefix_hits for stats in run.stats) == 20
    assert sum(stats.prefix_restored for stats in run.stats) == 20
    assert run.transcript.ids["again"] == run.transcript.ids["first"]


def test_what_a_loaded_block_replaces_is_saved_first() -> None:
    """The prefix that comes back takes blocks of the other one, which comes back in turn."""
    run = evicted_run(MemoryTier())
    for name, prompt in (("again", PROMPT), ("other again", make_prompt(29, seed=1))):
        add(run, name, prompt)
        run.finish()
    assert cached(run, "other again") == 28
    assert run.transcript.ids["other again"] == run.transcript.ids["other"]


def test_others_run_while_a_sequence_waits_for_a_read() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier, read_steps=1000)
    add(run, "again", PROMPT)
    assert not run.scheduler.has_work
    assert run.scheduler.tier_reads is not None
    assert run.scheduler.tier_reads.is_reading
    add(run, "quick", [3])
    run.step()
    run.step()
    assert "quick" in run.transcript.finish_reasons
    assert "again" not in run.transcript.ids
    waits = [event for stats in run.stats for event in stats.events if event.id == "again"]
    assert WaitReason.TIER in [getattr(event, "reason", None) for event in waits]
    tier.finish()
    assert run.scheduler.has_work
    run.finish()
    assert cached(run, "again") == 20


def test_a_sequence_that_waits_for_a_read_can_be_aborted() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier, read_steps=1000)
    add(run, "again", PROMPT)
    run.scheduler.abort("again", AbortReason.CLIENT_GONE)
    plan = run.scheduler.schedule()
    assert plan.items == []
    assert [output.finish_reason for output in run.scheduler.update(plan, StepResult([]))] == [FinishReason.ABORT]
    assert [future.cancelled() for _, future in tier.reads] == [True]
    run.finish()
    assert run.scheduler.tier_reads is not None
    assert not run.scheduler.tier_reads.is_reading


def test_a_time_limit_ends_a_sequence_that_waits_for_a_read() -> None:
    run = evicted_run(MemoryTier(is_late=True), read_steps=1000)
    add(run, "again", PROMPT, deadline_s=run.now_s + 5)
    run.now_s += 6
    assert run.scheduler.has_work
    outputs = run.scheduler.update(run.scheduler.schedule(), StepResult([]))
    assert [output.finish_reason for output in outputs] == [FinishReason.TIMEOUT]


def test_sequences_with_the_same_prefix_share_a_read() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier)
    for name in ("a", "b"):
        add(run, name, PROMPT)
    assert len(tier.reads) == 1
    run.finish()
    assert tier.num_read == 5
    assert (cached(run, "a"), cached(run, "b")) == (20, 20)


def test_a_lost_block_ends_the_prefix() -> None:
    tier = MemoryTier()
    run = evicted_run(tier)
    tier._is_lost = lambda key: key == list(tier.blocks)[2]
    add(run, "again", PROMPT)
    run.finish()
    assert cached(run, "again") in (4, 8, 12, 16)
    assert run.transcript.ids["again"] == run.transcript.ids["first"]


def test_a_block_of_another_size_is_not_used() -> None:
    tier = MemoryTier()
    run = evicted_run(tier)
    tier.blocks = {key: content[:-1] for key, content in tier.blocks.items()}
    add(run, "again", PROMPT)
    run.finish()
    assert cached(run, "again") == 0
    assert run.transcript.ids["again"] == run.transcript.ids["first"]


def test_a_tier_that_raises_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier, read_steps=1000)
    add(run, "again", PROMPT)
    tier.finish(error=OSError("made to fail"))
    run.finish()
    assert cached(run, "again") == 0
    assert "failed to read 5 blocks" in caplog.text


def test_memory_bounds_how_much_is_read() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier, max_read_blocks=3, read_steps=1000)
    add(run, "again", PROMPT)
    assert [len(keys) for keys, _ in tier.reads] == [3]
    tier.finish()
    run.finish()
    assert cached(run, "again") == 12


def test_a_running_read_delays_the_next_one() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier, read_steps=1000)
    add(run, "third", make_prompt(29, seed=2))
    run.finish()
    options = TierOptions(tier, (BLOCK_BYTES,), 100 * BLOCK_BYTES, prefill_s=lambda _start, _num: 10.0)
    run.scheduler = Scheduler(make_config(num_blocks=8), tier=options, clock=lambda: run.now_s)
    assert run.scheduler.tier_reads is not None
    run.scheduler.tier_reads.pace.rate = BLOCK_BYTES  # five seconds for one prompt, and seven for the other
    add(run, "again", PROMPT)
    add(run, "other again", make_prompt(29, seed=1))
    assert [len(keys) for keys, _ in tier.reads] == [5]


def test_tokens_are_counted_once_as_looked_up_though_memory_for_reads_was_short() -> None:
    tier = MemoryTier(is_late=True)
    run = evicted_run(tier, max_read_blocks=5, read_steps=1000)
    add(run, "third", make_prompt(29, seed=2))
    run.finish()
    reads = run.scheduler.tier_reads
    assert reads is not None
    reads.take_tokens()
    add(run, "again", PROMPT)
    add(run, "other again", make_prompt(29, seed=1))
    run.scheduler.abort("again", AbortReason.CLIENT_GONE)
    run.scheduler.update(run.scheduler.schedule(), StepResult([]))
    assert [len(keys) for keys, future in tier.reads if not future.cancelled()] == [5]  # of the other, at last
    assert reads.take_tokens()[0] == 20 + 28


def test_nothing_is_read_that_is_computed_faster() -> None:
    """A read takes a few milliseconds even if it has no bytes."""
    tier = MemoryTier()
    config = make_config(num_blocks=8, max_num_batched_tokens=32)
    run = evicted_run(tier)
    options = TierOptions(tier, (BLOCK_BYTES,), 100 * BLOCK_BYTES, prefill_s=lambda _start, num: num * 1e-5)
    run.scheduler = Scheduler(config, tier=options, clock=lambda: run.now_s)
    add(run, "again", PROMPT)
    run.finish()
    assert tier.num_read == 0
    assert cached(run, "again") == 0


def test_the_pace_of_reads_is_learned_and_a_slow_moment_is_forgotten() -> None:
    pace = ReadPace()
    before_s = pace.seconds(10**6)
    for _ in range(15):
        pace.observe(10**6, 1.0)
    slow_s = pace.seconds(10**6)
    assert before_s < 0.1 < 0.9 < slow_s < 1.2
    for _ in range(100):
        pace.pass_over()
    assert pace.seconds(10**6) == pytest.approx(before_s)


def test_blocks_of_a_failed_sequence_are_removed_from_the_tier() -> None:
    """Its own, and those that it has read: they may be the cause."""
    tier = MemoryTier()
    run = evicted_run(tier)
    run.runner.fail_ids.add("again")
    add(run, "again", PROMPT)
    add(run, "bystander", make_prompt(9, seed=2))
    run.finish()
    assert run.transcript.finish_reasons["again"] is FinishReason.ERROR
    add(run, "more", PROMPT)
    run.finish()
    assert cached(run, "more") == 0


def test_batches_neither_read_nor_save() -> None:
    tier = MemoryTier()
    run = evicted_run(tier)
    num_saved = len(tier.blocks)
    add(run, "line", PROMPT, service_class=ServiceClass.BATCH)
    run.finish()
    assert tier.num_read == 0
    add(run, "next", make_prompt(29, seed=3), service_class=ServiceClass.BATCH)
    run.finish()
    assert len(tier.blocks) - num_saved <= 7  # blocks of "other", which is a client's


def test_an_engine_waits_for_a_read_and_says_when_it_ended() -> None:
    tier, ended = MemoryTier(), []
    engine, runner = make_engine(num_blocks=8, max_num_batched_tokens=32, tier=tier)
    assert isinstance(engine._tier, AttachedTier)
    assert engine._tier.mover is runner
    client = LocalClient(engine)
    requests = [make_request(name, PROMPT if name != "b" else make_prompt(29, seed=1), max_tokens=2) for name in "abc"]
    for request in requests:
        outputs = client.generate([request])
        assert outputs[request.id].new_ids == expected_ids(request)
        ended.append(outputs[request.id].num_cached_tokens)
    assert ended == [0, 0, 8]  # a quarter of the pool, two blocks, is read at most
