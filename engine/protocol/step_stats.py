"""StepStats: metrics of one engine step."""

import msgspec

from engine.protocol.adapters import AdapterStats
from engine.protocol.kinds import AuditVerdict
from engine.protocol.sequence_events import SequenceEvent


class StepStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of one step: gauges with values after the step, and increments during the step."""

    is_beginning: bool = False  # only the gauges, at the beginning of a step
    running: int = 0
    waiting: int = 0
    waiting_tokens: int = 0  # tokens of waiting requests
    waiting_cached_tokens: int = 0  # waiting_tokens that the prefix cache had when last looked up
    waiting_urgent: int = 0  # waiting requests of each class; the remaining ones are interactive
    waiting_background: int = 0
    running_batch: int = 0  # lines of batches, which `running` and `waiting` do not count
    paused_batch: int = 0  # lines of batches that keep their blocks while clients' requests run
    waiting_batch: int = 0
    waiting_for_grammar: int = 0  # waiting requests that could not run even if there were room
    blocks_total: int = 0
    blocks_used: int = 0  # blocks of running requests and pinned prefixes
    blocks_shared: int = 0  # used blocks that several requests or pinned prefixes share
    blocks_pinned: int = 0  # used blocks of pinned prefixes
    blocks_cached: int = 0  # free blocks whose prefix can still be reused
    states_total: int = 0  # states of recurrent layers; 0 without such layers
    states_used: int = 0  # states of running requests
    states_cached: int = 0  # free states that are still the checkpoint of a reusable prefix
    prefill_tokens: int = 0  # computed tokens that were known before: prompts, and recomputation after preemption
    decode_tokens: int = 0  # computed tokens that were sampled in the step before, or drafted
    prefix_queries: int = 0  # prompt tokens looked up at first admission
    prefix_hits: int = 0  # looked-up prompt tokens that were found in the cache, or in a tier below it
    prefix_restored: int = 0  # prefix_hits that came from a tier
    preemptions: int = 0
    preemptions_by_reason: dict[str, int] = {}  # by PreemptionReason (tally.py), those that occurred
    tenants_running: int = 0  # tenants with running requests
    tenants_waiting: int = 0  # tenants with waiting requests
    pending_prompt_tokens: int = 0  # known, uncomputed tokens of running requests, less one for each
    memory_shortages: int = 0  # 1 if memory did not suffice for the step, which is tried again
    corrupted: int = 0  # requests that ended because the model's output was not finite
    recomputed_tokens: int = 0  # prefill_tokens that were computed before and lost to preemption
    batch_prefill_tokens: int = 0  # the four batch_ values count lines of batches, which the values above do not
    batch_decode_tokens: int = 0
    batch_recomputed_tokens: int = 0
    batch_preemptions: int = 0
    evicted_blocks: list[tuple[float, int]] = []  # evicted cached blocks: (seconds since they became free, number)
    evicted_states: int = 0
    tier_bytes: int = 0  # blocks of the model in the tier below the KV cache, such as a disk; 0 without a tier
    tier_hits: int = 0  # blocks that were read from it
    tier_misses: int = 0  # blocks that a read did not find intact
    tier_read_s: float = 0.0
    tier_write_s: float = 0.0
    tier_failures: int = 0
    tier_dropped: int = 0  # blocks that were not written, because too many were queued
    tier_queried_tokens: int = 0  # prompt tokens that no block of the KV cache had, looked up in the tier
    tier_restored_tokens: int = 0  # tokens whose keys and values came from it
    kv_events_dropped: int = 0  # events about cached blocks that were not sent, because too many were queued
    step_s: float = 0.0
    predicted_s: float = 0.0  # seconds that the step budget expected, of a step that it learned from; 0: unknown
    measured_s: float = 0.0  # seconds that the same step took, without drafting and bookkeeping; 0: not predicted
    draft_s: float = 0.0  # draft_s to update_s: the phases of step_s
    schedule_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0  # on a GPU, includes the wait for the forward pass
    update_s: float = 0.0
    read_bytes: int = 0  # lower bound on the bytes that the forward pass reads from memory
    write_bytes: int = 0  # lower bound on the bytes that the forward pass writes to memory
    flops: int = 0  # multiplications and additions of the forward pass
    send_s: float = 0.0  # time to send the last step's outputs to the API process, after that step
    num_drafts: int = 0  # sequences whose draft was verified
    draft_tokens: int = 0  # verified tokens of drafts
    accepted_tokens: int = 0  # verified draft tokens that were accepted
    accepted_by_position: list[int] = []  # accepted_tokens by position in the draft
    draft_length: float | None = None  # mean over the sequences; None unless all of the step's sequences decode
    estimated_speedup: float | None = None  # predicted speed-up of this step by its drafts
    realized_speedup: float | None = None  # measured speed-up of the last steps over decoding without drafts
    expert_rows: list[int] = []  # rows computed by each expert, summed over all layers; empty without experts
    expert_imbalance: float | None = None  # busiest expert's recent rows over the mean, averaged over layers
    audit: AuditVerdict | None = None  # result of the audit that ended in this step
    is_speculation_off: bool = False  # a fault has switched speculation off for good
    forced_tokens: int = 0  # tokens that grammars determined, appended without sampling
    num_masks: int = 0  # rows that a grammar's mask constrained
    mask_s: float = 0.0  # time that the step waited for masks
    grammar_compile_s: dict[str, list[float]] = {}  # times of compilations, by outcome: compiled, invalid or given up
    grammar_cache_queries: int = 0
    grammar_cache_hits: int = 0
    grammar_cache_bytes: int | None = None  # None in an engine without a compiler
    pooled_tokens: int = 0  # tokens that a pooling engine computed in one forward pass
    pooled_requests: int = 0  # texts in that forward pass
    adapters: AdapterStats | None = None  # None in an engine without adapters
    events: list[SequenceEvent] = []  # events of clients' sequences and batches' sequences, in order

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache's blocks that live requests use or pinned prefixes hold; 1 is all."""
        return self.blocks_used / self.blocks_total if self.blocks_total else 0.0

    @property
    def num_computed(self) -> int:
        """Tokens computed in the step for service classes that count in metrics."""
        return self.prefill_tokens + self.decode_tokens + self.batch_prefill_tokens + self.batch_decode_tokens

    @property
    def read_tokens(self) -> int:
        """Tokens of prompts and of pooled texts that were computed in the step, for all service classes."""
        return self.prefill_tokens + self.batch_prefill_tokens + self.pooled_tokens

    @property
    def written_tokens(self) -> int:
        """Decoded tokens of the step, drafts included, for all service classes."""
        return self.decode_tokens + self.batch_decode_tokens
