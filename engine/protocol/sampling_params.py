"""SamplingParams: how a sequence's tokens are sampled, and when it stops."""

import math
from itertools import chain

import msgspec

from engine.errors import InvalidRequest

MAX_DRY_WINDOW = 8192  # tokens; a row's cost grows with its window
# Below this a distribution is its maximum to within fp32, and dividing by it would overflow.
_GREEDY_TEMPERATURE = 1e-5


class DryParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the DRY repetition penalty: engine/sampling/steps/dry.py. The server converts the text breakers to
    tokens."""

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    window: int = 64  # tokens that are searched for repetitions
    breaker_mask: bytes = b""  # a bit per token, the lowest first: a repetition ends at these tokens
    breaker_sequences: tuple[tuple[int, ...], ...] = ()  # sequences of two or more tokens that end a repetition too

    def __post_init__(self) -> None:
        check_range("dry_multiplier", self.multiplier, 0.0, 100.0, low_open=True)
        check_range("dry_base", self.base, 1.0, 100.0)
        check_range("dry_allowed_length", self.allowed_length, 0, MAX_DRY_WINDOW)
        check_range("dry_penalty_last_n", self.window, 1, MAX_DRY_WINDOW)


class XtcParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of XTC sampling, which excludes the top choices: engine/sampling/steps/xtc.py."""

    probability: float
    threshold: float = 0.1

    def __post_init__(self) -> None:
        check_range("xtc_probability", self.probability, 0.0, 1.0, low_open=True)
        check_range("xtc_threshold", self.threshold, 0.0, 1.0)


class MirostatParams(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of mirostat sampling, which controls the surprise of the text: engine/sampling/steps/mirostat.py."""

    version: int
    tau: float = 5.0  # target surprise, in bits
    eta: float = 0.1  # how fast the limit follows the observed surprise

    def __post_init__(self) -> None:
        check_range("mirostat", self.version, 1, 2)
        check_range("mirostat_tau", self.tau, 0.0, 100.0, low_open=True)
        check_range("mirostat_eta", self.eta, 0.0, 1.0)


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How to sample a sequence's tokens, and when to stop. Stop strings are handled by the server, which has the text.

    Raises InvalidRequest when built. Token ids are checked later by `check_vocabulary`, the prompt's length at
    admission.
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
    stop_token_ids: tuple[int, ...] = ()  # besides the checkpoint's own EOS ids
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none; n: log probabilities of the sampled token and of the n best tokens
    logprob_token_ids: tuple[int, ...] = ()  # with logprobs: report these tokens instead of the n best
    prompt_logprobs: int | None = None  # None: none; n: log probabilities of each prompt token and n best tokens

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
        """Whether sampling is greedy: the most likely token, without a random draw."""
        return self.temperature < _GREEDY_TEMPERATURE

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def edits_logits(self) -> bool:
        """Whether logits are edited before sampling, apart from grammar masks and the thinking budget."""
        return bool(
            self.logit_bias
            or self.has_penalties
            or self.min_tokens
            or self.bad_words
            or self.dry is not None
            or self.allowed_token_ids is not None
        )

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise InvalidRequest for a token id outside [0, vocab_size). vocab_size: width of the output layer."""
        for token_id in self.stop_token_ids:
            check_range("stop_token_ids", token_id, 0, vocab_size - 1)
        for token_id in self.logprob_token_ids:
            check_range("logprob_token_ids", token_id, 0, vocab_size - 1)
        for token_id in self.logit_bias:
            check_range("logit_bias token id", token_id, 0, vocab_size - 1, param="logit_bias")
        if self.allowed_token_ids is not None:  # may have most of the vocabulary
            for token_id in (min(self.allowed_token_ids), max(self.allowed_token_ids)):
                check_range("allowed_token_ids", token_id, 0, vocab_size - 1)
        for token_id in chain.from_iterable(self.bad_words):
            check_range("bad_words token id", token_id, 0, vocab_size - 1, param="bad_words")


def check_range(
    name: str, value: float, low: float, high: float, *, low_open: bool = False, param: str | None = None
) -> None:
    """Raise InvalidRequest if `value` lies outside the range."""
    if math.isfinite(value) and low <= value <= high and not (low_open and value == low):
        return
    bounds = f"{'above' if low_open else 'at least'} {low} and at most {high}"
    raise InvalidRequest(f"{name} is {value}; it must be {bounds}", param=param or name)
