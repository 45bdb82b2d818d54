"""Sequence: the engine's unit of work, and the arithmetic that every scheduling feature shares."""

import enum
from dataclasses import dataclass, field

from engine.protocol import EngineRequest, Resumption, TokenLogprobs
from engine.protocol.sequence_events import WaitReason
from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.fairness.service_rules import SERVICE_RULES, ServiceRules
from engine.scheduling.grammar import OutputGrammar

# Rank of the service class, priority, arrival, number of the intake, and the same of a part of an earlier intake.
Order = tuple[int, int, float, int, int]


class SequenceStatus(enum.Enum):
    WAITING = enum.auto()  # preempted sequences too: they have num_computed 0
    RUNNING = enum.auto()
    PAUSED = enum.auto()  # lines of batches that keep their blocks and do not run; see pauses.py
    FINISHED = enum.auto()


class Gate(enum.Enum):
    """Conditions, besides free blocks and the order of service, that keep a waiting sequence from running."""

    GRAMMAR = enum.auto()  # its grammar is being compiled
    ADAPTER = enum.auto()  # its adapter has no slot
    TIER = enum.auto()  # blocks of its prefix are being read from a tier


@dataclass(slots=True, eq=False)
class Sequence:
    """The tokens of one sequence, and how many of them are in the KV cache. There is no prefill or decode state.

    Invariants: 0 <= num_computed <= num_with_draft; len(tokens) >= num_prompt; tables are empty unless the sequence is
    RUNNING or PAUSED. A sequence in a step that was planned ahead is RUNNING, or FINISHED: it ended meanwhile.
    """

    request: EngineRequest
    seed: int  # request.sampling.seed, or one drawn at intake
    tokens: list[int]  # prompt, then accepted output
    num_prompt: int
    num_shared: int = 0  # first tokens of the prompt that sequences to come will share; they may continue this one
    prefix_ends: tuple[int, ...] = ()  # numbers of first tokens that other requests are likely to share
    continues: "Sequence | None" = None  # an earlier sequence, which has ended, with the same beginning
    grammar: OutputGrammar | None = None  # the output must match it
    adapter_slot: int = -1  # slot of its adapter, while it runs; -1 without an adapter
    closed_gates: set[Gate] = field(default_factory=set)  # the sequence is set aside while any is closed
    order: Order = (0, 0, 0.0, 0, 0)  # place among running sequences, and its tenant's waiting ones; lower goes first
    account: TenantAccount = field(default_factory=TenantAccount)  # account of its tenant in its service class
    num_to_compute: int = 1  # tokens that were not in the prefix cache when last counted
    num_charged: int = 0  # prompt tokens charged to `account`: those that were not cached
    has_claimed: bool = False  # it has preempted another tenant's sequence
    num_computed: int = 0  # tokens whose KV is in the cache
    num_ahead: int = 0  # tokens in the cache after a step that was planned ahead, while it is not collected; else 0
    draft: list[int] = field(default_factory=list)  # proposed, unverified
    tables: list[list[int]] = field(default_factory=list)  # for each KV group its blocks, in order of position
    unit_hashes: list[bytes] = field(default_factory=list)  # chained digests of the full prefix units of `tokens`
    branch_points: tuple[int, ...] = ()  # numbers of first units after which others are likely to diverge from it
    checkpoint: int | None = None  # table entry of the last recurrent state that was left in the cache
    status: SequenceStatus = SequenceStatus.WAITING
    num_cached: int | None = None  # prompt tokens found in the prefix cache when first admitted
    num_written: int = 0  # prompt tokens that it put into the prefix cache, where later requests find them
    num_read_units: int | None = None  # prefix units that every admission found in the cache; it computed the rest
    num_computed_at_preemption: int = 0  # the largest over all preemptions: tokens below it are recomputed
    first_scheduled_s: float | None = None  # time.monotonic()
    preempted_s: list[float] = field(default_factory=list)  # time.monotonic() of preemptions not yet in an output
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)  # of prompt tokens 1.., as far as computed
    has_output: bool = False  # an output with tokens has been sent
    is_started: bool = False  # a step has computed something for it
    num_admitted: int = 0  # number of admissions; a new one makes void all that was known about its blocks
    num_withdrawn: int = 0  # number of its steps that were not computed because memory ran out
    wait_reason: WaitReason | None = None  # the reason reported last in the present wait
    num_decode_steps: int = 0  # steps after those that computed its prompt
    num_drafted: int = 0  # draft tokens verified so far
    num_draft_accepted: int = 0  # accepted ones of `num_drafted`
    service: ServiceRules = field(init=False)  # the rules of its service class

    def __post_init__(self) -> None:
        self.service = SERVICE_RULES[self.request.service_class]
        if self.grammar is not None and not self.grammar.is_ready:
            self.closed_gates.add(Gate.GRAMMAR)

    def resume(self, resumption: Resumption) -> None:
        """Continue from output that another engine has generated, as if after a preemption. Call only on a new
        sequence, which has just its prompt."""
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
        """Number of tokens still to compute: at first the prompt; while decoding, one token and the draft."""
        return len(self.tokens) + len(self.draft) - self.num_computed

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Number of output tokens left before max_tokens."""
        return self.request.sampling.max_tokens - self.num_output

    @property
    def is_ready(self) -> bool:
        """Whether all gates are open, so that the sequence can run."""
        return not self.closed_gates

    @property
    def needs_prompt_rows(self) -> bool:
        """Whether requested prompt log probabilities are missing. If so, the prefix cache is not used, since it has no
        logits."""
        return self.request.sampling.prompt_logprobs is not None and len(self.prompt_logprobs) < self.num_prompt - 1
