"""The events of each sequence: why it waited, what was computed, and how it ended."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import AbortReason, ServiceClass
from engine.protocol.sequence_events import (
    Admitted,
    Computed,
    Ended,
    Preempted,
    Queued,
    SequenceEvent,
    WaitReason,
    Waits,
)
from engine.scheduling.steps.tally import PreemptionReason
from tests.engine.scheduling.test_schedules import blocks_of_pool, schedules, workloads
from tests.helpers.engines import SchedulerRun, half_right_draft, make_config, make_prompt, make_request
from tests.helpers.grammars import GRAMMARS
from tests.helpers.ledger import EOS_ID

pytestmark = pytest.mark.fast


def events(run: SchedulerRun, name: str) -> list[SequenceEvent]:
    return [event for stats in run.stats for event in stats.events if event.id == name]


def waits(run: SchedulerRun, name: str) -> list[tuple[WaitReason, bool]]:
    return [(each.reason, each.is_shared) for each in events(run, name) if isinstance(each, Waits)]


def begin(run: SchedulerRun, name: str, length: int = 5, **fields: Any) -> None:
    run.add(make_request(name, make_prompt(length, seed=sum(name.encode())), ignore_eos=True, **fields))


def test_a_sequence_alone_is_admitted_computed_in_chunks_and_ended() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=8))
    begin(run, "a", 20, max_tokens=3)
    run.finish()
    assert events(run, "a") == [
        Queued("a", 100.0, num_running=0, num_waiting=0, num_resumed=0),
        Admitted("a", 100.0, num_cached=0),
        Computed("a", 100.0, num_tokens=8, num_left=12),
        Computed("a", 100.0, num_tokens=8, num_left=4),
        Computed("a", 100.0, num_tokens=4, num_left=0),
        Ended("a", 100.0, "length", num_decode_steps=2, num_drafted=0, num_accepted=0),
    ]


def test_what_the_cache_had_is_reported() -> None:
    run = SchedulerRun(make_config())
    for name in ("a", "b"):
        run.add(make_request(name, make_prompt(13), max_tokens=2, ignore_eos=True))
        run.finish()
    assert Admitted("b", 100.0, num_cached=12) in events(run, "b")
    assert Computed("b", 100.0, num_tokens=1, num_left=0) in events(run, "b")


def test_a_wait_for_a_slot_is_reported_once() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1))
    begin(run, "a", max_tokens=9)
    run.step()
    begin(run, "b")
    run.finish()
    assert events(run, "b")[:3] == [
        Queued("b", 100.0, num_running=1, num_waiting=0, num_resumed=0),
        Waits("b", 100.0, WaitReason.SLOTS, is_shared=False),
        Admitted("b", 100.0, num_cached=0),
    ]
    assert waits(run, "a") == []


def test_a_wait_for_a_slot_that_another_tenant_has_is_reported_as_shared() -> None:
    run = SchedulerRun(make_config(max_num_seqs=2))
    begin(run, "a", tenant="x", max_tokens=9)
    begin(run, "b", tenant="y", max_tokens=9)
    run.step()
    begin(run, "c", tenant="x")
    run.finish()
    assert waits(run, "c") == [(WaitReason.SLOTS, True)]


def test_a_wait_for_blocks_is_reported() -> None:
    run = SchedulerRun(make_config(num_blocks=8))
    begin(run, "a", 20, max_tokens=9)
    run.step()
    begin(run, "b", 20)
    run.finish()
    assert waits(run, "b") == [(WaitReason.BLOCKS, False)]


def test_behind_a_prompt_that_needs_the_room_another_tenant_waits_for_it() -> None:
    run = SchedulerRun(make_config(num_blocks=8, max_num_seqs=4))
    begin(run, "a", 16, tenant="x", max_tokens=12)
    run.step()
    begin(run, "b", 28, tenant="y", max_tokens=1)
    begin(run, "c", 4, tenant="z", max_tokens=1)
    run.step()
    assert waits(run, "b")[0][0] is WaitReason.BLOCKS
    assert waits(run, "c")[0][0] is WaitReason.OTHERS
    run.finish()


def test_a_wait_for_the_tokens_of_the_step_is_reported() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=8))
    begin(run, "a", 20, max_tokens=1)
    begin(run, "b", 20, max_tokens=1)
    run.step()
    assert waits(run, "b") == [(WaitReason.TOKENS, False)]
    run.finish()


def test_a_wait_for_a_prefix_that_another_computes_is_reported() -> None:
    run = SchedulerRun(make_config())
    for name in ("a", "b"):
        run.add(make_request(name, make_prompt(16), max_tokens=1, ignore_eos=True))
    run.finish()
    assert waits(run, "b") == [(WaitReason.PREFIX, False)]
    assert Admitted("b", 100.0, num_cached=12) in events(run, "b")


def test_a_wait_for_a_grammar_is_reported() -> None:
    run = SchedulerRun(make_config())
    run.scheduler.add(
        make_request("a", make_prompt(5), grammar=GRAMMARS[0], deadline_s=101.0),
        SequenceGrammar(frozenset([EOS_ID]), appends_forced=True),
    )
    begin(run, "b")
    run.finish()
    assert waits(run, "a") == [(WaitReason.GRAMMAR, False)]
    assert waits(run, "b") == []


def test_a_preemption_is_reported_with_what_it_lost_and_recomputation_as_prompt() -> None:
    run = SchedulerRun(make_config(enable_prefix_caching=False))
    for name in ("a", "b"):
        begin(run, name, max_tokens=5)
    run.step()
    run.step()
    run.scheduler._lifecycle.preempt(run.scheduler.running[-1], PreemptionReason.MEMORY)
    run.finish()
    assert events(run, "b")[3:] == [
        Preempted("b", 100.0, "memory", num_lost=6),
        Admitted("b", 100.0, num_cached=0),
        Computed("b", 100.0, num_tokens=6, num_left=0),
        Ended("b", 100.0, "length", num_decode_steps=3, num_drafted=0, num_accepted=0),
    ]


def test_a_step_without_memory_is_reported() -> None:
    run = SchedulerRun(make_config())
    begin(run, "a")
    run.scheduler.withdraw(run.scheduler.schedule())
    run.finish()
    assert Preempted("a", 100.0, "out_of_memory", num_lost=0) in events(run, "a")


def test_an_abort_ends_it() -> None:
    run = SchedulerRun(make_config())
    begin(run, "a")
    run.step(abort_meanwhile="a")
    assert events(run, "a")[-1] == Ended("a", 100.0, "abort", num_decode_steps=0, num_drafted=0, num_accepted=0)


def test_the_engines_own_sequences_are_not_reported() -> None:
    run = SchedulerRun(make_config())
    begin(run, "a", service_class=ServiceClass.AUDIT)
    run.finish()
    assert events(run, "a") == []


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    requests=workloads(), schedule=schedules, spare=st.integers(0, 12), speculates=st.booleans(), aborts=st.booleans()
)
def test_the_events_account_for_every_computed_token(
    requests: list[Any], schedule: dict[str, Any], spare: int, speculates: bool, aborts: bool
) -> None:
    run = SchedulerRun(
        make_config(num_blocks=blocks_of_pool(schedule, spare), **schedule), half_right_draft if speculates else None
    )
    for request in requests:
        run.add(request)
    if aborts:
        run.step()
        run.scheduler.abort(requests[0].id, AbortReason.CLIENT_GONE)
    run.finish()
    computed = 0
    for request in requests:
        reported = events(run, request.id)
        kinds = [type(event) for event in reported]
        assert kinds[0] is Queued
        assert kinds.index(Ended) == len(kinds) - 1
        assert 0 <= kinds.count(Admitted) - kinds.count(Preempted) <= 1
        for before, after in itertools.pairwise(reported):
            if isinstance(after, Waits):
                assert not isinstance(before, Admitted | Computed), "it runs"
                assert not isinstance(before, Waits) or before.reason is not after.reason
            if isinstance(after, Computed | Preempted):
                assert not isinstance(before, Queued | Waits | Preempted), "it does not run"
        computed += sum(event.num_tokens for event in reported if isinstance(event, Computed))
    assert computed == sum(stats.prefill_tokens + stats.batch_prefill_tokens for stats in run.stats)
