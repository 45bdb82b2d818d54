"""StepStats: metrics of one engine step."""

import msgspec

from engine.protocol.adapters import AdapterStats
from engine.protocol.kinds import AuditVerdict
from engine.protocol.sequence_events import SequenceEvent


class StepStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of one step: gauges with values after the step, and increments during the step."""

    is_beginning: bool = False  # gauges alone, of a step that begins
    running: int = 0
    waiting: int = 0
    waiting_urgent: int = 0  # of waiting, by service class; the others are interactive
    waiting_background: int = 0
    running_batch: int = 0  # lines of batches, which `running` and `waiting` do not count
    paused_batch: int = 0  # with their blocks, while clients' requests run
    waiting_batch: int = 0
    waiting_for_grammar: int = 0  # of waiting: requests that could not run even if there were room
    blocks_total: int = 0
    blocks_used: int = 0  # by running requests
    blocks_shared: int = 0  # of blocks_used, by several requests
    blocks_cached: int = 0  # free, but their prefix can still be reused
    states_total: int = 0  # of recurrent layers; 0 without such layers
    states_used: int = 0  # by running requests
    states_cached: int = 0  # free, but still the checkpoint of a prefix that can be reused
    prefill_tokens: int = 0  # computed tokens that were known before: prompts, and recomputation after preemption
    decode_tokens: int = 0  # computed tokens that were sampled in the step before, or drafted
    prefix_queries: int = 0  # prompt tokens looked up at first admission
    prefix_hits: int = 0  # of prefix_queries, found in the cache
    preemptions: int = 0
    preemptions_by_reason: dict[str, int] = {}  # of them, other than none: engine/scheduling/steps/tally.py
    tenants_running: int = 0  # with running requests
    tenants_waiting: int = 0  # with waiting requests
    pending_prompt_tokens: int = 0  # known, uncomputed tokens of running requests, less one for each
    memory_shortages: int = 0  # 1 if memory did not suffice for the step, which is tried again
    corrupted: int = 0  # requests that ended because the model's output was not finite
    recomputed_tokens: int = 0  # of prefill_tokens, computed before and lost to preemption
    batch_prefill_tokens: int = 0  # these four: of lines of batches, which the values above do not count
    batch_decode_tokens: int = 0
    batch_recomputed_tokens: int = 0
    batch_preemptions: int = 0
    evicted_blocks: list[tuple[float, int]] = []  # cached blocks that were reused: seconds since they were free, number
    evicted_states: int = 0
    step_s: float = 0.0
    draft_s: float = 0.0  # of step_s, by phase
    schedule_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0  # on a GPU with the wait for the forward pass
    update_s: float = 0.0
    read_bytes: int = 0  # from memory, the least that the forward pass needs
    write_bytes: int = 0  # to memory, the least that the forward pass needs
    flops: int = 0  # multiplications and additions of the forward pass
    send_s: float = 0.0  # after the last step: of its outputs to the API process
    num_drafts: int = 0  # sequences whose draft was verified
    draft_tokens: int = 0  # verified tokens of drafts
    accepted_tokens: int = 0  # of draft_tokens
    accepted_by_position: list[int] = []  # accepted_tokens by position in the draft
    draft_length: float | None = None  # mean over the sequences; None unless all of the step's sequences decode
    estimated_speedup: float | None = None  # of this step by its drafts, as predicted
    realized_speedup: float | None = None  # of the last steps, against decoding one by one
    expert_rows: list[int] = []  # computed by each expert, over all layers; empty without experts
    expert_imbalance: float | None = None  # busiest expert's recent rows over the mean, averaged over layers
    audit: AuditVerdict | None = None  # if an audit ended in this step
    is_speculation_off: bool = False  # for good, because of a fault
    forced_tokens: int = 0  # that grammars determined, appended without sampling
    num_masks: int = 0  # rows that a grammar's mask constrained
    mask_s: float = 0.0  # time that the step waited for masks
    grammar_compile_s: dict[str, list[float]] = {}  # times of compilations, by outcome: compiled, invalid or given up
    grammar_cache_queries: int = 0
    grammar_cache_hits: int = 0
    grammar_cache_bytes: int | None = None  # None in an engine without a compiler
    pooled_tokens: int = 0  # computed by a pooling engine, in one forward pass
    pooled_requests: int = 0  # texts, with pooled_tokens
    adapters: AdapterStats | None = None  # None in an engine without adapters
    events: list[SequenceEvent] = []  # of clients' sequences and batches', in order

    @property
    def num_computed(self) -> int:
        """Tokens computed in the step for service classes that count in metrics."""
        return self.prefill_tokens + self.decode_tokens + self.batch_prefill_tokens + self.batch_decode_tokens
