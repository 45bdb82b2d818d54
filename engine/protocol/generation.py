"""Requests to generate a sequence or to score labels, and their outputs, step by step."""

import msgspec

from engine.protocol.adapters import AdapterRef
from engine.protocol.kinds import FinishReason, ServiceClass
from engine.protocol.sampling_params import SamplingParams, check_range
from engine.protocol.scoring import LabelMasses, ScoredQuestion

MIN_TENANT_WEIGHT, MAX_TENANT_WEIGHT = 0.001, 1000.0


class ThinkingBudget(msgspec.Struct, frozen=True):
    """Token limit on all thoughts of an answer; once it is spent, `end_id` is forced as the next token of a thought."""

    max_tokens: int  # tokens between the marks that begin and end thoughts, together
    start_id: int | None  # the mark that begins a thought; None if it is several tokens
    end_id: int
    is_open: bool = False  # whether the prompt ends within a thought


class Resumption(msgspec.Struct, frozen=True, kw_only=True):
    """The output so far of a request that is resumed on another engine, and its counters, which the new engine
    continues.

    As after a preemption, the output tokens are prefilled again, not sampled.
    """

    output_ids: list[int]  # at least one
    num_cached_tokens: int  # this and the following counters are those of RequestOutput
    num_drafted: int = 0
    num_draft_accepted: int = 0
    num_predicted: int = 0  # the count after the last output token


class QueuedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that queuing uses, common to generation and pooling requests. All times are time.monotonic()."""

    id: str  # made by the server, never a client's header
    prompt_ids: list[int]
    arrival_s: float  # when the HTTP request came
    deadline_s: float | None = None  # the request ends then, with the output that it has
    start_by_s: float | None = None  # the request ends then if no step has computed a part of it
    priority: int = 0  # lower runs first; ties by arrival
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    tenant: str = ""  # tenants share the engine by weight; all requests without a name are one tenant
    tenant_weight: float = 1.0  # share of the tenant, relative to other tenants'

    def __post_init__(self) -> None:
        check_range("tenant_weight", self.tenant_weight, MIN_TENANT_WEIGHT, MAX_TENANT_WEIGHT)

    def time_over(self, now_s: float) -> FinishReason | None:
        """Return the reason if a request that has not started has timed out at `now_s`, else None."""
        if self.deadline_s is not None and self.deadline_s <= now_s:
            return FinishReason.TIMEOUT
        if self.start_by_s is not None and self.start_by_s <= now_s:
            return FinishReason.QUEUE_TIMEOUT
        return None


class EngineRequest(QueuedRequest, frozen=True, kw_only=True):
    """One sequence to generate. A client's request with n choices becomes n EngineRequests, which share the prompt's KV
    blocks."""

    sampling: SamplingParams
    cache_salt: str = ""  # requests share cached prefixes only within one salt
    grammar: str | None = None  # grammar that the output must match, in llguidance's form
    thinking: ThinkingBudget | None = None
    reports_progress: bool = False  # also send outputs while the prompt is computed
    tokens_per_output: int = 1  # tokens to send together; the first output has fewer, and the last may
    prediction_ids: list[int] = []  # the client's expectation of the output; verified as a draft, it changes no token
    adapter: AdapterRef | None = None  # LoRA adapter applied to the model's weights
    resumption: Resumption | None = None  # the output so far, if another engine has started the request
    drawn_seed: int | None = None  # seed of a request without one, the same in all engines; None draws one at intake


class ScoringRequest(QueuedRequest, frozen=True, kw_only=True):
    """Questions about one state, whose tokens are `prompt_ids`: asks for the probabilities of each question's labels.

    The whole request counts as one for the queue, time limits and aborts. It has a single output.
    """

    questions: list[ScoredQuestion]  # one or more
    branch_points: list[int] = []  # numbers of first tokens of the state that other requests are likely to share
    cache_salt: str = ""  # this and `adapter` as in EngineRequest
    adapter: AdapterRef | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the state, once, and of each question."""
        return len(self.prompt_ids) + sum(len(question.ids) for question in self.questions)

    @property
    def num_tokens_apart(self) -> int:
        """Tokens to compute without a prefix cache: the state again for each question."""
        return self.num_tokens + (len(self.questions) - 1) * len(self.prompt_ids)


SubmittedRequest = EngineRequest | ScoringRequest


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities (natural logarithm) of tokens at one position, from the raw logits, before any sampling
    parameter."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]  # best first; if logprob_token_ids is set, those tokens in that order
    rank: int | None = None  # rank of a prompt token in the vocabulary, from 1


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """New output of one request after a step. `finish_reason` is set only on the request's last output."""

    id: str
    new_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None  # one for each new id, if requested
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # once, with the first output; the first entry is None
    num_prompt_computed: int | None = None  # with reports_progress, up to the first output that has tokens
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None  # the id that ended the sequence; it is the last of new_ids
    num_cached_tokens: int = 0  # prompt tokens taken from the prefix cache, in every output
    num_written_tokens: int = 0  # prompt tokens put into the prefix cache, with the first tokens and the last
    queue_s: float | None = None  # arrival to first scheduled, with the first output
    first_token_s: float | None = None  # the engine's time.monotonic() of the first tokens, with them
    ended_s: float | None = None  # the engine's time.monotonic() of the last tokens, with them
    preempted_s: list[float] = []  # the engine's time.monotonic() of each preemption since the last output
    error: str | None = None  # message, with FinishReason.ERROR
    is_refused: bool = False  # with an error: the request's own fault, such as a grammar that cannot be compiled
    refused_param: str | None = None  # the parameter at fault in a refused request; None for the grammar
    num_drafted: int = 0  # draft tokens verified so far, in every output with tokens
    num_draft_accepted: int = 0  # verified draft tokens that were accepted
    scores: list[LabelMasses] | None = None  # of each question, with the output of a ScoringRequest that succeeded
    failed_question: int | None = None  # with an error of a ScoringRequest: the number of the question at fault
    num_predicted: list[int] = []  # with a prediction: how many of its tokens were generated, after each new id
