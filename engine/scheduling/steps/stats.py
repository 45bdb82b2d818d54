"""Collection of a step's StepStats: its tally, and the state of queues and blocks after it."""

from collections.abc import Mapping
from typing import Any

from engine.protocol import ServiceClass, StepStats
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.lifecycle import Lifecycle


def take_step_stats(lifecycle: Lifecycle, kv: KVManager, known: Mapping[str, Any]) -> StepStats:
    """Return the stats of the last step, and reset its counters.

    known: StepStats fields that are measured outside the scheduler, by name.
    """
    tally = lifecycle.take_tally()
    clients, batch = tally.clients, tally.batch
    pool, states, waiting = kv.pool, kv.states, lifecycle.waiting
    return StepStats(
        running=lifecycle.running.num_counted,
        waiting=waiting.num_counted,
        waiting_tokens=waiting.num_tokens,
        waiting_cached_tokens=max(0, waiting.num_tokens - waiting.num_to_compute),
        waiting_urgent=waiting.num_of(ServiceClass.URGENT),
        waiting_background=waiting.num_of(ServiceClass.BACKGROUND),
        running_batch=lifecycle.running.num_of(ServiceClass.BATCH),
        paused_batch=lifecycle.paused.num_of(ServiceClass.BATCH),
        waiting_batch=waiting.num_of(ServiceClass.BATCH),
        blocks_total=pool.num_blocks,
        blocks_used=pool.num_used,
        blocks_shared=pool.num_shared,
        blocks_pinned=kv.pins.num_blocks,
        blocks_cached=pool.num_free_cached,
        states_total=states.num_blocks,
        states_used=states.num_used,
        states_cached=states.num_free_cached,
        evicted_blocks=kv.evicted_blocks.take(),
        evicted_states=sum(count for _, count in kv.evicted_states.take()),
        prefill_tokens=clients.prefill_tokens,
        decode_tokens=clients.decode_tokens,
        prefix_queries=tally.prefix_queries,
        prefix_hits=tally.prefix_hits,
        prefix_restored=tally.prefix_restored,
        preemptions=clients.num_preemptions,
        preemptions_by_reason={reason.value: number for reason, number in clients.preemptions.items() if number},
        tenants_running=lifecycle.num_tenants_running,
        tenants_waiting=waiting.num_tenants,
        recomputed_tokens=clients.recomputed_tokens,
        batch_prefill_tokens=batch.prefill_tokens,
        batch_decode_tokens=batch.decode_tokens,
        batch_recomputed_tokens=batch.recomputed_tokens,
        batch_preemptions=batch.num_preemptions,
        pending_prompt_tokens=lifecycle.num_pending_prompt_tokens,
        forced_tokens=tally.forced_tokens,
        memory_shortages=tally.memory_shortages,
        corrupted=tally.corrupted,
        events=tally.events,
        **known,
    )
