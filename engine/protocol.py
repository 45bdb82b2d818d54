"""Wire types between the API process and the engine process.

One message carries a request in; one message a step carries the outputs of all its sequences out. Everything here is a
frozen msgspec struct, so a frame is plain msgpack and nothing that came from a network is ever unpickled.
"""

import enum
from itertools import chain

import msgspec

from engine.errors import InvalidRequest
from engine.events.sequence import SequenceEvent
from engine.resumption import Resumption
from engine.sampler_params import DryParams, MirostatParams, XtcParams, check_range


class FinishReason(enum.StrEnum):
    """Why a sequence ended; every accepted request ends with exactly one."""

    STOP = "stop"
    LENGTH = "length"
    TIMEOUT = "timeout"
    QUEUE_TIMEOUT = "queue_timeout"  # nothing of it was scheduled in time
    ABORT = "abort"
    ERROR = "error"


class AbortReason(enum.StrEnum):
    """Why a sequence is ended early; all but DEADLINE are the API process's reasons. STOP_STRING ends it as
    FinishReason.STOP, DEADLINE as TIMEOUT, the rest as ABORT."""

    CLIENT_GONE = "client_gone"
    STOP_STRING = "stop_string"
    SHUTDOWN = "shutdown"
    DEADLINE = "deadline"


class ServiceClass(enum.StrEnum):
    """Whom a sequence is for. What follows from it is in one table: engine/scheduling/service.py."""

    URGENT = "urgent"  # a client waits for it, and others may wait longer
    INTERACTIVE = "interactive"  # a client waits for it
    BACKGROUND = "background"  # a client that can wait as long as others have work
    AUDIT = "audit"  # the engine's own: a finished sequence generated again, to audit speculation


class AuditVerdict(enum.StrEnum):
    """How a sequence generated with drafts compares with its replay without them."""

    EQUAL = "equal"
    NEAR_TIE = "near_tie"  # they part where the two best tokens were all but equal
    DISAGREEMENT = "disagreement"


# Below this a distribution is its maximum to within fp32, and dividing by it would overflow.
_GREEDY_TEMPERATURE = 1e-5

MIN_TENANT_WEIGHT, MAX_TENANT_WEIGHT = 0.001, 1000.0


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to choose a sequence's tokens, and when to stop. Stop strings are the server's: they need text.

    Validated when built; raises InvalidRequest. What depends on the model (ids below its output width, prompt length)
    is checked by `check_vocabulary` and by admission.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # 1 is off
    top_k: int = 0  # 0 is off
    min_p: float = 0.0  # 0 is off
    typical_p: float = 1.0  # 1 is off
    top_n_sigma: float = 0.0  # 0 is off
    xtc: XtcParams | None = None
    mirostat: MirostatParams | None = None  # instead of all the limits above
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0  # 1 is off
    dry: DryParams | None = None
    logit_bias: dict[int, float] = {}
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that the output must not contain
    allowed_token_ids: tuple[int, ...] | None = None  # None allows all
    seed: int | None = None  # None takes EngineRequest.drawn_seed
    stop_token_ids: tuple[int, ...] = ()  # beside the checkpoint's own EOS ids
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none; n: the sampled token's and the n best
    logprob_token_ids: tuple[int, ...] = ()  # with logprobs: these tokens' instead of the n best
    prompt_logprobs: int | None = None  # for each prompt token: its own and the n best

    def __post_init__(self) -> None:
        check_range("temperature", self.temperature, 0.0, 100.0)
        check_range("top_p", self.top_p, 0.0, 1.0, low_open=True)
        check_range("min_p", self.min_p, 0.0, 1.0)
        check_range("typical_p", self.typical_p, 0.0, 1.0, low_open=True)
        check_range("top_n_sigma", self.top_n_sigma, 0.0, 100.0)
        check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        check_range("repetition_penalty", self.repetition_penalty, 0.0, 100.0, low_open=True)
        check_range("top_k", self.top_k, 0, 2**31 - 1)
        check_range("max_tokens", self.max_tokens, 0, 2**31 - 1)
        check_range("min_tokens", self.min_tokens, 0, self.max_tokens)
        if self.seed is not None:
            check_range("seed", self.seed, -(2**63), 2**63 - 1)
        for token_id, bias in self.logit_bias.items():
            check_range(f"logit_bias[{token_id}]", bias, -100.0, 100.0, param="logit_bias")
        if self.allowed_token_ids == ():
            raise InvalidRequest(
                "allowed_token_ids is empty, which allows no token; leave it out to allow all",
                param="allowed_token_ids",
            )
        assert all(self.bad_words), "a sequence of no tokens"

    @property
    def is_greedy(self) -> bool:
        """Whether a token is the largest logit, and no random number is needed."""
        return self.temperature < _GREEDY_TEMPERATURE

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def edits_logits(self) -> bool:
        """Whether logits are edited for the sequence before its tokens are chosen, a grammar and a budget aside."""
        return bool(
            self.logit_bias
            or self.has_penalties
            or self.min_tokens
            or self.bad_words
            or self.dry is not None
            or self.allowed_token_ids is not None
        )

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise InvalidRequest if a token id lies outside [0, vocab_size): the width of the output layer."""
        for token_id in self.stop_token_ids:
            check_range("stop_token_ids", token_id, 0, vocab_size - 1)
        for token_id in self.logprob_token_ids:
            check_range("logprob_token_ids", token_id, 0, vocab_size - 1)
        for token_id in self.logit_bias:
            check_range("logit_bias token id", token_id, 0, vocab_size - 1, param="logit_bias")
        if self.allowed_token_ids is not None:  # it may hold most of the vocabulary
            for token_id in (min(self.allowed_token_ids), max(self.allowed_token_ids)):
                check_range("allowed_token_ids", token_id, 0, vocab_size - 1)
        for token_id in chain.from_iterable(self.bad_words):
            check_range("bad_words token id", token_id, 0, vocab_size - 1, param="bad_words")


class ThinkingBudget(msgspec.Struct, frozen=True):
    """How long a model may think: when the budget is spent, the next token is the mark that ends the thought."""

    max_tokens: int  # between the marks
    start_id: int | None  # the mark that begins the thought; None where the prompt ends with it
    end_id: int


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate. A request with n choices becomes n of these, which share their prompt's blocks."""

    id: str  # made by the server, never a client's header
    prompt_ids: list[int]
    sampling: SamplingParams
    arrival_s: float  # time.monotonic() when the HTTP request came
    deadline_s: float | None = None  # in the same clock: then it ends with what it has, waiting or running
    start_by_s: float | None = None  # in the same clock: if no step has had a part of it by then, it ends
    priority: int = 0  # lower runs first; ties by arrival
    cache_salt: str = ""  # requests share cached prefixes only within one salt
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    tenant: str = ""  # whom it counts for: tenants share the engine by weight; all without a name are one
    tenant_weight: float = 1.0  # its share against those of other tenants
    grammar: str | None = None  # that the output must match, in llguidance's form
    thinking: ThinkingBudget | None = None
    reports_progress: bool = False  # outputs while the prompt is computed
    prediction_ids: list[int] = []  # what the client expects as output; verified as a draft, it changes no token
    resumption: Resumption | None = None  # if another engine has begun it
    drawn_seed: int | None = None  # of a request that gives none: the same for all engines; None draws one at intake

    def __post_init__(self) -> None:
        check_range("tenant_weight", self.tenant_weight, MIN_TENANT_WEIGHT, MAX_TENANT_WEIGHT)


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities from the raw logits, before any sampling parameter."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]  # best first; of logprob_token_ids in their order
    rank: int | None = None  # of a prompt's token among all, from 1


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is new for one request after one step. `finish_reason` marks the single terminal output."""

    id: str
    new_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None  # one a new id, if requested
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # once, with the first output; the first entry is None
    num_prompt_computed: int | None = None  # with reports_progress, until the first token and with it
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None  # the id that ended the sequence; it is the last of new_ids
    num_cached_tokens: int = 0  # prompt tokens taken from the prefix cache, in every output
    queue_s: float | None = None  # arrival to first scheduled, with the first output
    first_token_s: float | None = None  # time.monotonic() of the engine when it had the first tokens, with them
    ended_s: float | None = None  # the same with the last tokens
    preempted_s: list[float] = []  # the same of each preemption since the output before
    error: str | None = None  # with FinishReason.ERROR
    is_refused: bool = False  # with an error: the request's own fault, such as a grammar that cannot be compiled
    refused_param: str | None = None  # of a refusal: the parameter at fault; None for the grammar
    num_drafted: int = 0  # draft tokens verified so far, in every output with tokens
    num_draft_accepted: int = 0  # of these
    num_predicted: list[int] = []  # with a prediction: how many of its tokens were generated, after each new id


class StepStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The scheduler's account of one step. Gauges are values after the step; the rest are this step's increments."""

    running: int = 0
    waiting: int = 0
    waiting_urgent: int = 0  # of waiting, by service class; the rest are interactive
    waiting_background: int = 0
    waiting_for_grammar: int = 0  # of waiting, those that could not run if there were room
    blocks_total: int = 0
    blocks_used: int = 0  # by running requests
    blocks_shared: int = 0  # of these, by several
    blocks_cached: int = 0  # free, but their prefix can still be reused
    states_total: int = 0  # of recurrent layers; 0 without such layers
    states_used: int = 0  # by running requests
    states_cached: int = 0  # free, but still the checkpoint of a prefix that can be reused
    prefill_tokens: int = 0  # computed tokens that were known before: prompts, and recomputation after preemption
    decode_tokens: int = 0  # computed tokens that were sampled in the step before, or drafted
    prefix_queries: int = 0  # prompt tokens looked up at first admission
    prefix_hits: int = 0  # of these, cached
    preemptions: int = 0
    preemptions_by_reason: dict[str, int] = {}  # of them, other than none: engine/scheduling/step_tally.py
    tenants_running: int = 0  # with running requests
    tenants_waiting: int = 0  # with waiting requests
    pending_prompt_tokens: int = 0  # known ones of running requests that are to be computed, less one for each
    memory_shortages: int = 0  # 1 if the step could not be computed for want of memory, and is tried again
    corrupted: int = 0  # requests ended, since the model's output was not finite
    recomputed_tokens: int = 0  # of prefill_tokens, computed before and lost to preemption
    evicted_blocks: list[tuple[float, int]] = []  # cached ones that were reused: seconds since they were free, how many
    evicted_states: int = 0
    step_s: float = 0.0
    draft_s: float = 0.0  # of step_s, by phase
    schedule_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0  # on a GPU it has the wait for the forward pass
    update_s: float = 0.0
    read_bytes: int = 0  # that the forward pass could not do without, from memory
    write_bytes: int = 0  # and to it
    flops: int = 0  # its multiplications and additions
    send_s: float = 0.0  # after the step before: its outputs to the API process
    num_drafts: int = 0  # sequences whose draft was verified
    draft_tokens: int = 0  # drafted tokens verified
    accepted_tokens: int = 0  # of these
    accepted_by_position: list[int] = []  # the same by position in the draft
    draft_length: float | None = None  # mean over the sequences; None unless all of the step's sequences decode
    estimated_speedup: float | None = None  # of this step by its drafts, as predicted
    realized_speedup: float | None = None  # of the last steps, against decoding one by one
    expert_rows: list[int] = []  # computed by each expert, over all layers; empty without experts
    expert_imbalance: float | None = None  # busiest expert's recent rows over the mean, averaged over layers
    audit: AuditVerdict | None = None  # if a replay ended in this step
    is_speculation_off: bool = False  # for good, because of a fault
    forced_tokens: int = 0  # that grammars determined, appended without sampling
    num_masks: int = 0  # rows that a grammar's mask constrained
    mask_s: float = 0.0  # time that their masks took, where the step waited for it
    grammar_compile_s: dict[str, list[float]] = {}  # of grammars that were compiled, invalid or given up, by outcome
    grammar_cache_queries: int = 0
    grammar_cache_hits: int = 0
    grammar_cache_bytes: int | None = None  # None in an engine without a compiler
    events: list[SequenceEvent] = []  # of sequences that count in metrics, in order


class TokenizerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """All that the API process needs to convert text to ids and back, without torch or transformers."""

    tokenizer_json: bytes
    chat_template: str | None
    special_tokens: dict[str, str]  # bos_token, eos_token, ...: what templates refer to
    bos_token_id: int | None
    eos_token_ids: list[int]
    add_bos_token: bool  # whether a plain prompt gets a BOS in front
    fim_ids: dict[str, int] = {}  # tokens for filling in the middle that the checkpoint names, by their roles


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How a model's predictions differ from those of the same weights unquantized, on average over the positions of
    a text (engine/quality)."""

    kl_divergence: float  # nats a token
    top1_agreement: float  # share of positions with the same likeliest token
    perplexity: float
    reference_perplexity: float
    num_tokens: int
    reference: str  # names the unquantized weights

    @property
    def loss(self) -> float:
        """Relative increase of the perplexity."""
        return self.perplexity / self.reference_perplexity - 1


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded and chosen; sent once, with READY."""

    architecture: str
    device: str
    dtype: str
    vocab_size: int  # width of the output layer
    max_model_len: int
    block_size: int
    num_blocks: int
    kv_bytes: int
    kv_windows: list[int | None]  # of each group of layers that shares block tables; None sees everything
    num_states: int = 0  # of recurrent layers, in a pool of their own; a running request needs one
    weight_bytes: int
    max_num_seqs: int
    max_num_batched_tokens: int
    are_steps_timed: bool = False  # they have fewer tokens where so many would take too long
    prefill_seconds_per_token: float = 0.0  # of a prompt, as measured at the warm-up; 0 is unknown
    decode_step_s: float = 0.0  # a step of one sequence that generates, likewise
    tokenizer: TokenizerInfo
    generation_defaults: dict[str, float]  # temperature, top_p, top_k, ... from generation_config.json
    notes: list[str]  # lines for the operator: what was chosen and why
    warnings: list[str] = []  # the same: what was probably not meant
    weight_formats: dict[str, int] = {}  # how weights are stored, such as "int4 g32": number of tensors
    quality: Quality | None = None  # if requested


# --- API process -> engine -------------------------------------------------------------------------------------------


class AddRequest(msgspec.Struct, frozen=True, tag=True):
    request: EngineRequest


class AbortRequest(msgspec.Struct, frozen=True, tag=True):
    id: str
    reason: AbortReason


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Stop at once; the API process has drained or given up on whatever ran."""


class SetLogLevel(msgspec.Struct, frozen=True, tag=True):
    level: str  # as the option --log-level has it


ToEngine = AddRequest | AbortRequest | SetLogLevel | Shutdown


# --- engine -> API process -------------------------------------------------------------------------------------------


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Progress of start-up, for /health and the terminal's bars. total 0 means unknown."""

    stage: str  # "download model", "load weights", "warm up"
    done: int
    total: int
    unit: str  # "B" for bytes, else a noun
    sent_s: float = 0.0  # time.monotonic() of the engine process, the same clock as the API process's


class TokenizerReady(msgspec.Struct, frozen=True, tag=True):
    """The tokenizer, while weights are still loaded: the API process makes its own form of it meanwhile."""

    tokenizer: TokenizerInfo


class Ready(msgspec.Struct, frozen=True, tag=True):
    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot start; `message` is for the user, and trying again would not help."""

    message: str
    is_option: bool = False  # an option is wrong, and not the model or what the machine has


class StepOutputs(msgspec.Struct, frozen=True, tag=True):
    outputs: list[RequestOutput]
    stats: StepStats


class Started(msgspec.Struct, frozen=True, tag=True):
    """The next step is the first one that computes these requests: if the engine ends now, they may be the cause."""

    ids: list[str]


class Working(msgspec.Struct, frozen=True, tag=True):
    """A step that takes long gets on, or a grammar is still being compiled: the engine does not hang."""


FromEngine = Loading | TokenizerReady | Ready | Failed | Started | Working | StepOutputs
