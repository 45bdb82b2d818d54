"""Rows of the table that the engine knows: how each is read from StepStats."""

from server.metrics import buckets
from server.metrics.spec import MetricSpec, counter, gauge, histogram

_SCHEDULER: tuple[MetricSpec, ...] = (
    gauge("num_requests_running", "Requests in the running batch.", lambda s: s.running, is_vllm=True),
    gauge("num_requests_waiting", "Requests that are waiting.", lambda s: s.waiting, is_vllm=True),
    gauge(
        "num_requests_waiting_by_reason",
        "The same by what they wait for: capacity (a slot and blocks), deferred (their grammar is being compiled).",
        by="reason",
        step_by={
            "capacity": lambda s: max(0, s.waiting - s.waiting_for_grammar),
            "deferred": lambda s: s.waiting_for_grammar,
        },
        is_vllm=True,
    ),
    gauge(
        "num_requests_waiting_by_class",
        "The same by service class: urgent, interactive, background (service_tier priority, default, flex).",
        by="service_class",
        step_by={
            "urgent": lambda s: s.waiting_urgent,
            "interactive": lambda s: s.waiting - s.waiting_urgent - s.waiting_background,
            "background": lambda s: s.waiting_background,
        },
    ),
    gauge(
        "num_batch_requests",
        "Requests of batches in the engine, by state: running, paused (with their blocks in the KV cache, while "
        "clients' requests run), waiting. The rows above do not count them.",
        by="state",
        step_by={
            "running": lambda s: s.running_batch,
            "paused": lambda s: s.paused_batch,
            "waiting": lambda s: s.waiting_batch,
        },
    ),
    counter(
        "batch_computed_tokens_total",
        "Tokens that the engine computed for batches, by kind: prefill, decode, recomputed (lost by preemption for "
        "clients' requests). The rows of iterations do not count them.",
        by="kind",
        step_by={
            "prefill": lambda s: s.batch_prefill_tokens - s.batch_recomputed_tokens,
            "decode": lambda s: s.batch_decode_tokens,
            "recomputed": lambda s: s.batch_recomputed_tokens,
        },
    ),
    counter(
        "batch_preemptions_total",
        "Requests of batches that gave up their blocks and were put back in the queue, because memory or slots were "
        "short.",
        lambda s: s.batch_preemptions,
    ),
    counter(
        "num_preemptions_total",
        "Running requests that were put back in the queue, for any reason.",
        lambda s: s.preemptions,
        is_vllm=True,
    ),
    counter(
        "num_preemptions_by_reason_total",
        "The same by reason: memory (too few blocks or recurrent states), service_class, priority, fairness (room for "
        "a tenant with less than its share).",
        by="reason",
        step_by={
            "memory": lambda s: s.preemptions_by_reason.get("memory", 0),
            "service_class": lambda s: s.preemptions_by_reason.get("service_class", 0),
            "priority": lambda s: s.preemptions_by_reason.get("priority", 0),
            "fairness": lambda s: s.preemptions_by_reason.get("fairness", 0),
        },
    ),
    gauge(
        "num_tenants",
        "Tenants with running requests, and with waiting ones. Requests without a tenant name count as one tenant.",
        by="state",
        step_by={"running": lambda s: s.tenants_running, "waiting": lambda s: s.tenants_waiting},
    ),
    counter(
        "corrupted_requests_total",
        "Requests that ended with an error because the model's output was not finite (NaN or infinity).",
        lambda s: s.corrupted,
        is_vllm=True,
    ),
    counter(
        "step_memory_shortages_total",
        "Steps that ran out of memory; their requests are computed again, in smaller steps.",
        lambda s: s.memory_shortages,
    ),
    histogram(
        "iteration_tokens_total",
        "Tokens computed in one step.",
        buckets.ITERATION_TOKENS,
        lambda s: (s.prefill_tokens + s.decode_tokens) or None,
        is_vllm=True,
    ),
    histogram(
        "iteration_prefill_tokens",
        "Tokens of prompts, and of sequences computed again, in one step; steps without any do not count.",
        buckets.ITERATION_TOKENS,
        lambda s: s.prefill_tokens or None,
    ),
    histogram(
        "iteration_decode_tokens",
        "Sampled or drafted tokens in one step; steps without any do not count.",
        buckets.ITERATION_TOKENS,
        lambda s: s.decode_tokens or None,
    ),
    histogram("step_duration_seconds", "Duration of one step.", buckets.STEP_S, lambda s: s.step_s or None),
    counter(
        "step_phase_seconds_total",
        "Time of all steps by phase: draft, schedule, forward, sample (on a GPU including the wait for the forward "
        "pass), update, and send (after the step).",
        by="phase",
        step_by={
            "draft": lambda s: s.draft_s,
            "schedule": lambda s: s.schedule_s,
            "forward": lambda s: s.forward_s,
            "sample": lambda s: s.sample_s,
            "update": lambda s: s.update_s,
            "send": lambda s: s.send_s,
        },
    ),
    counter(
        "model_read_bytes_total",
        "Estimated bytes that forward passes had to read from memory: weights once per step, keys and values once per "
        "sequence. Divided by the seconds of the phase forward (and, on a GPU, sample), it is the bandwidth in use.",
        lambda s: s.read_bytes,
    ),
    counter(
        "model_written_bytes_total",
        "Estimated bytes that forward passes had to write to memory: keys, values and states.",
        lambda s: s.write_bytes,
    ),
    counter(
        "model_flops_total",
        "Estimated multiplications and additions of forward passes.",
        lambda s: s.flops,
    ),
)

_KV_CACHE: tuple[MetricSpec, ...] = (
    gauge(
        "kv_cache_usage_perc",
        "Share of KV cache blocks that live requests use; 1 is all.",
        lambda s: s.blocks_used / s.blocks_total if s.blocks_total else 0.0,
        is_vllm=True,
    ),
    gauge(
        "kv_cache_blocks",
        "KV cache blocks by state: used (by one live request), shared (by several), cached (free, with a reusable "
        "prefix), blank.",
        by="state",
        step_by={
            "used": lambda s: s.blocks_used - s.blocks_shared,
            "shared": lambda s: s.blocks_shared,
            "cached": lambda s: s.blocks_cached,
            "blank": lambda s: s.blocks_total - s.blocks_used - s.blocks_cached,
        },
    ),
    gauge("kv_cache_cached_blocks", "Free blocks that still contain a reusable prefix.", lambda s: s.blocks_cached),
    counter("kv_cache_evictions_total", "Cached blocks that were reused for new tokens, so their prefix is gone."),
    histogram(
        "kv_block_idle_before_evict_seconds",
        "How long an evicted block had been free.",
        buckets.IDLE_S,
        is_vllm=True,
    ),
    gauge(
        "recurrent_states_usage_perc",
        "Share of the states of recurrent layers that live requests use; 0 for models without such layers.",
        lambda s: s.states_used / s.states_total if s.states_total else 0.0,
    ),
    gauge(
        "recurrent_states_cached", "Free states that are checkpoints of a reusable prefix.", lambda s: s.states_cached
    ),
    counter(
        "recurrent_state_evictions_total", "Cached states that were reused for new ones.", lambda s: s.evicted_states
    ),
    counter(
        "prefix_cache_queries_total",
        "Prompt tokens looked up in the prefix cache.",
        lambda s: s.prefix_queries,
        is_vllm=True,
    ),
    counter(
        "prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", lambda s: s.prefix_hits, is_vllm=True
    ),
)

_SPECULATION: tuple[MetricSpec, ...] = (
    counter("spec_decode_num_drafts_total", "Drafts verified.", lambda s: s.num_drafts, is_vllm=True),
    counter("spec_decode_num_draft_tokens_total", "Draft tokens verified.", lambda s: s.draft_tokens, is_vllm=True),
    counter(
        "spec_decode_num_accepted_tokens_total",
        "Draft tokens that were accepted; each saved a step.",
        lambda s: s.accepted_tokens,
        is_vllm=True,
    ),
    counter(
        "spec_decode_num_accepted_tokens_per_pos_total",
        "The same by position in the draft, from 0.",
        by="position",
        is_vllm=True,
    ),
    gauge(
        "spec_decode_draft_length",
        "Average number of draft tokens per decoding sequence in the last step.",
        lambda s: s.draft_length,
    ),
    gauge(
        "spec_decode_estimated_speedup",
        "Speedup of the last step by its drafts, as estimated when they were chosen.",
        lambda s: s.estimated_speedup,
    ),
    gauge(
        "spec_decode_realised_speedup",
        "Speedup of the last steps, relative to one token per step.",
        lambda s: s.realized_speedup,
    ),
    counter(
        "spec_decode_audits_total",
        "Replays without drafts (--spec-audit-rate) by result: equal, near_tie, disagreement.",
        by="verdict",
    ),
    gauge(
        "spec_decode_disabled",
        "1 after a fault, or a disagreement in an audit, has switched speculation off.",
        lambda s: s.is_speculation_off,
    ),
)

_GRAMMARS: tuple[MetricSpec, ...] = (
    counter(
        "grammar_compilations_total",
        "Grammars and JSON schemas by outcome of their compilation: compiled, invalid, timeout, cancelled (no request "
        "needs them anymore).",
        by="outcome",
    ),
    histogram("grammar_compile_time_seconds", "Duration of one compilation, whatever its outcome.", buckets.STEP_S),
    counter(
        "grammar_cache_queries_total",
        "Requests with a grammar, which was looked up in the cache of compiled grammars.",
        lambda s: s.grammar_cache_queries,
    ),
    counter(
        "grammar_cache_hits_total", "Requests with a grammar that was in the cache.", lambda s: s.grammar_cache_hits
    ),
    gauge("grammar_cache_bytes", "Estimated size of the compiled grammars.", lambda s: s.grammar_cache_bytes),
    counter(
        "grammar_masks_total", "Tokens that needed a grammar's mask, including drafted ones.", lambda s: s.num_masks
    ),
    counter(
        "grammar_mask_seconds_total",
        "Time that steps waited for grammar masks; most masks are computed beside the model.",
        lambda s: s.mask_s,
    ),
    counter(
        "grammar_forced_tokens_total",
        "Tokens that a grammar determined, so they needed no step.",
        lambda s: s.forced_tokens,
    ),
)

_EXPERTS: tuple[MetricSpec, ...] = (
    counter(
        "expert_rows_total",
        "Rows that each expert computed, over all layers with experts; with more than 256 experts, neighbors are "
        "counted together.",
        by="expert",
    ),
    gauge(
        "expert_imbalance",
        "Recent rows of a layer's busiest expert, divided by the mean over its experts, averaged over layers; 1 is "
        "even.",
        lambda s: s.expert_imbalance,
    ),
)

ENGINE_SECTIONS: dict[str, tuple[MetricSpec, ...]] = {
    "Scheduler": _SCHEDULER,
    "KV cache": _KV_CACHE,
    "Speculation": _SPECULATION,
    "Grammars": _GRAMMARS,
    "Experts": _EXPERTS,
}
