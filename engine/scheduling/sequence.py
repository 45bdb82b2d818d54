"""Sequence: the engine's unit of work, and the arithmetic that every scheduling feature shares."""

import enum
from dataclasses import dataclass, field

from engine.protocol import EngineRequest, Resumption, TokenLogprobs
from engine.protocol.sequence_events import WaitReason
from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.fairness.service_rules import SERVICE_RULES, ServiceRules
from engine.scheduling.grammar import OutputGrammar

Order = tuple[int, int, float, int]  # rank of the service class, priority, arrival, number of the intake


class SequenceStatus(enum.Enum):
    WAITING = enum.auto()  # preempted sequences too: they have num_computed 0
    RUNNING = enum.auto()
    PAUSED = enum.auto()  # lines of batches, which have their blocks and no place; see pauses.py
    FINISHED = enum.auto()


class Gate(enum.Enum):
    """What a sequence waits for before it may run, besides its turn and room."""

    GRAMMAR = enum.auto()  # that its grammar is compiled
    ADAPTER = enum.auto()  # that its adapter has a slot


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens known so far and how many of them are in the KV cache; nothing says prefill or decode.

    Invariants: 0 <= num_computed <= num_with_draft; len(tokens) >= num_prompt; tables are empty unless RUNNING or
    PAUSED.
    """

    request: EngineRequest
    seed: int  # request.sampling.seed, or one drawn at intake
    tokens: list[int]  # prompt, then accepted output
    num_prompt: int
    grammar: OutputGrammar | None = None  # that the output must match
    adapter_slot: int = -1  # that has its adapter while it runs; -1 without one
    closed_gates: set[Gate] = field(default_factory=set)  # it is set aside while one is closed
    order: Order = (0, 0, 0.0, 0)  # place among running sequences, and waiting ones of its tenant; lower goes first
    account: TenantAccount = field(default_factory=TenantAccount)  # of its tenant in its service class
    num_to_compute: int = 1  # tokens, less those that were cached when it came to wait or was asked last
    num_charged: int = 0  # prompt tokens that `account` was charged: those that were not cached
    has_claimed: bool = False  # another tenant's room
    num_computed: int = 0  # tokens whose KV is in the cache
    draft: list[int] = field(default_factory=list)  # proposed, unverified
    tables: list[list[int]] = field(default_factory=list)  # of each KV group: blocks in order of position
    block_hashes: list[bytes] = field(default_factory=list)  # chained digests of the full blocks of `tokens`
    branch_points: tuple[int, ...] = ()  # in blocks from the beginning: where others are likely to part from this one
    checkpoint: int | None = None  # entry of the last recurrent state that was left in the cache
    status: SequenceStatus = SequenceStatus.WAITING
    num_cached: int | None = None  # prompt tokens found in the prefix cache when first admitted
    num_computed_at_preemption: int = 0  # the most over all preemptions: tokens below it are recomputed
    first_scheduled_s: float | None = None  # time.monotonic()
    preempted_s: list[float] = field(default_factory=list)  # time.monotonic() of preemptions that no output has told
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)  # of prompt tokens 1.., as far as computed
    has_output: bool = False  # an output with tokens has been sent
    is_started: bool = False  # a step has computed something for it
    num_admitted: int = 0  # times: what others know about its blocks is void when this changes
    num_withdrawn: int = 0  # times: its step was not computed, for want of memory
    wait_reason: WaitReason | None = None  # the last one that was told since it waits
    num_decode_steps: int = 0  # steps that computed tokens which were not known before
    num_drafted: int = 0  # draft tokens verified so far
    num_draft_accepted: int = 0  # of them
    service: ServiceRules = field(init=False)  # of its service class

    def __post_init__(self) -> None:
        self.service = SERVICE_RULES[self.request.service_class]
        if self.grammar is not None and not self.grammar.is_ready:
            self.closed_gates.add(Gate.GRAMMAR)

    def resume(self, resumption: Resumption) -> None:
        """Be as if preempted after this output; the sequence is new and has its prompt alone."""
        self.tokens += resumption.output_ids
        self.has_output = True
        self.num_cached = resumption.num_cached_tokens
        self.num_drafted = resumption.num_drafted
        self.num_draft_accepted = resumption.num_draft_accepted
        self.num_computed_at_preemption = len(self.tokens) - 1

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def num_with_draft(self) -> int:
        return len(self.tokens) + len(self.draft)

    @property
    def num_pending(self) -> int:
        """Tokens still to compute: the prompt at first, one while decoding, one and the draft when speculating."""
        return len(self.tokens) + len(self.draft) - self.num_computed

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Output tokens until max_tokens."""
        return self.request.sampling.max_tokens - self.num_output

    @property
    def is_ready(self) -> bool:
        """Whether all gates are open, so that the sequence can run."""
        return not self.closed_gates

    @property
    def needs_prompt_rows(self) -> bool:
        """Whether log probabilities of prompt tokens are requested and incomplete: a cached prefix has no logits."""
        return self.request.sampling.prompt_logprobs is not None and len(self.prompt_logprobs) < self.num_prompt - 1
