"""Metrics of the engine's caches and features, and how each is read from StepStats."""

from collections.abc import Callable

from engine.protocol import StepStats
from server.metrics import buckets
from server.metrics.scheduler_rows import SCHEDULER_ROWS
from server.metrics.spec import MODEL, MetricSpec, counter, gauge, histogram

_KV_CACHE: tuple[MetricSpec, ...] = (
    gauge(
        "kv_cache_usage_perc",
        "Share of KV cache blocks that live requests use or pinned prefixes hold; 1 is all.",
        lambda s: s.kv_usage,
        is_vllm=True,
    ),
    gauge(
        "kv_cache_blocks",
        "KV cache blocks by state: used (by one live request or pinned prefix), shared (by several), cached (free, "
        "with a reusable prefix), blank.",
        labels=(MODEL, "state"),
        step_by={
            "used": lambda s: s.blocks_used - s.blocks_shared,
            "shared": lambda s: s.blocks_shared,
            "cached": lambda s: s.blocks_cached,
            "blank": lambda s: s.blocks_total - s.blocks_used - s.blocks_cached,
        },
    ),
    gauge("kv_cache_cached_blocks", "Free blocks that still contain a reusable prefix.", lambda s: s.blocks_cached),
    gauge("kv_cache_pinned_blocks", "Blocks of pinned prefixes (POST /v1/cache/pin).", lambda s: s.blocks_pinned),
    counter("kv_cache_evictions_total", "Cached blocks that were reused for new tokens, so their prefix is gone."),
    histogram(
        "kv_block_idle_before_evict_seconds", "How long an evicted block had been free.", buckets.IDLE_S, is_vllm=True
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
        "prefix_cache_hits_total",
        "Prompt tokens found in the prefix cache.",
        lambda s: s.prefix_hits - s.prefix_restored,
        is_vllm=True,
    ),
)


def _of_tier(make: Callable[..., MetricSpec], name: str, text: str, value: Callable[[StepStats], float]) -> MetricSpec:
    """Return a metric of each tier below the KV cache; the disk (--kv-offload-dir) is the only one."""
    return make(f"kv_tier_{name}", text, labels=(MODEL, "tier"), step_by={"disk": value})


_TIERS: tuple[MetricSpec, ...] = (
    _of_tier(gauge, "bytes", "Bytes of the model's blocks in a tier: disk (--kv-offload-dir).", lambda s: s.tier_bytes),
    _of_tier(counter, "hits_total", "Blocks of prefixes that were read from a tier.", lambda s: s.tier_hits),
    _of_tier(
        counter,
        "misses_total",
        "Blocks of prefixes that a tier no longer had when they were read, or not intact.",
        lambda s: s.tier_misses,
    ),
    _of_tier(
        counter, "read_seconds_total", "Time of reading blocks from a tier, beside the steps.", lambda s: s.tier_read_s
    ),
    _of_tier(
        counter, "write_seconds_total", "Time of writing blocks to a tier, beside the steps.", lambda s: s.tier_write_s
    ),
    _of_tier(
        counter,
        "failures_total",
        "Blocks that a tier could not read or write, or that were torn or altered; each kind is logged once.",
        lambda s: s.tier_failures,
    ),
    _of_tier(
        counter,
        "dropped_blocks_total",
        "Blocks that were not written to a tier, because too many waited to be written.",
        lambda s: s.tier_dropped,
    ),
    counter(
        "external_prefix_cache_queries_total",
        "Prompt tokens that the KV cache lacked when a request looked them up in a tier; others may compute them then.",
        lambda s: s.tier_queried_tokens,
        is_vllm=True,
    ),
    counter(
        "external_prefix_cache_hits_total",
        "Tokens whose keys and values came from a tier.",
        lambda s: s.tier_restored_tokens,
        is_vllm=True,
    ),
    counter(
        "kv_events_dropped_total",
        "Events of --kv-events that were not sent, because too many waited to be sent.",
        lambda s: s.kv_events_dropped,
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
        "Draft tokens that were accepted, by position in the draft, from 0.",
        labels=(MODEL, "position"),
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
        "spec_decode_realized_speedup",
        "Speedup of the last steps, relative to one token per step.",
        lambda s: s.realized_speedup,
    ),
    counter(
        "spec_decode_audits_total",
        "Replays without drafts (--spec-audit-rate) by result: equal, near_tie, disagreement.",
        labels=(MODEL, "verdict"),
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
        labels=(MODEL, "outcome"),
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
        labels=(MODEL, "expert"),
    ),
    gauge(
        "expert_imbalance",
        "Recent rows of a layer's busiest expert, divided by the mean over its experts, averaged over layers; 1 is "
        "even.",
        lambda s: s.expert_imbalance,
    ),
)

_ADAPTERS: tuple[MetricSpec, ...] = (
    gauge(
        "lora_requests_info",
        "Unix time of the last change. The labels name the adapters of running and of waiting requests, and how many "
        "can run at once (max_lora).",
        labels=(MODEL, "running_lora_adapters", "waiting_lora_adapters", "max_lora"),
        is_vllm=True,
    ),
    gauge(
        "lora_slots",
        "Adapter slots by state: used (by running requests, or by the next ones), cached (filled, but available for "
        "others), empty.",
        labels=(MODEL, "state"),
    ),
    gauge("lora_adapters_in_memory", "Adapters in memory, in addition to those in slots (--max-cpu-loras)."),
    counter("lora_loads_total", "Adapters that were loaded into a slot."),
    histogram(
        "lora_load_time_seconds",
        "How long requests waited until an adapter was read and loaded into its slot.",
        buckets.STEP_S,
    ),
    counter("lora_evictions_total", "Adapters that were replaced in their slot by another one."),
)

_POOLING: tuple[MetricSpec, ...] = (
    counter(
        "pooled_tokens_total",
        "Tokens of texts that a pooling engine computed; divided by the seconds of the phase forward, it is its speed.",
        lambda s: s.pooled_tokens,
    ),
    counter("pooled_texts_total", "Texts that a pooling engine computed.", lambda s: s.pooled_requests),
    histogram(
        "pooling_step_tokens",
        "Tokens computed in one step of a pooling engine.",
        buckets.ITERATION_TOKENS,
        lambda s: s.pooled_tokens or None,
    ),
    histogram(
        "pooling_step_texts",
        "Texts computed in one step of a pooling engine.",
        buckets.REQUEST_INPUTS,
        lambda s: s.pooled_requests or None,
    ),
)

ENGINE_SECTIONS: dict[str, tuple[MetricSpec, ...]] = {
    "Scheduler": SCHEDULER_ROWS,
    "KV cache": _KV_CACHE,
    "Tiers of the KV cache": _TIERS,
    "Speculation": _SPECULATION,
    "Grammars": _GRAMMARS,
    "Experts": _EXPERTS,
    "Adapters": _ADAPTERS,
    "Pooling": _POOLING,
}
