"""Request fields that chat and text completions share, and their conversion to SamplingParams."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from engine.errors import InvalidRequest
from engine.protocol import EngineInfo, SamplingParams
from server.schemas.base import INT32, StrictModel, quote
from server.schemas.sampler_steps import LIMITS, SamplerStepFields, StepTokens

MAX_CHOICES = 128  # OpenAI's limit of n
MAX_TIMEOUT_S = 7 * 86400.0
_MAX_STOPS = 64
_MAX_STOP_TOKENS = 256  # every token is compared with all of them
_MAX_TEMPERATURE = 100  # above, all tokens are almost equally likely; OpenAI's limit of 2 has no mathematical reason
_MAX_STOP_LENGTH = 1024  # characters; every token is compared with every stop string
_MAX_LOGPROB_TOKEN_IDS = 128  # vLLM's limit
_NEUTRAL = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}

OutputLimit = Annotated[int, Field(ge=1, le=INT32)]  # of generated tokens


def is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(item) is int for item in value)


def _listed(value: Any) -> Any:
    """Convert a single stop string to a list."""
    if isinstance(value, str):
        value = [value]
    if value is not None and not isinstance(value, list):
        raise PydanticCustomError("stop", "it must be a string or a list of strings")
    for index, stop in enumerate(value or []):
        if not isinstance(stop, str):
            problem = f"its item {index} is {quote(stop)}, which is not a string"
        elif not 0 < len(stop) <= _MAX_STOP_LENGTH:
            problem = f"its item {index} has {len(stop)} characters; each must have 1 to {_MAX_STOP_LENGTH}"
        else:
            continue
        raise PydanticCustomError("stop", "{problem}", {"problem": problem})
    return value


def _checked_temperature(value: float) -> float:
    if not 0 <= value <= _MAX_TEMPERATURE:
        raise PydanticCustomError(
            "temperature",
            "it must be at least 0 and at most {limit}, where all tokens are almost equally likely",
            {"limit": _MAX_TEMPERATURE},
        )
    return value


def _early_stopping(value: Any) -> Any:
    if value is not None and not isinstance(value, bool) and value != "never":
        raise PydanticCustomError("early_stopping", "it must be true, false or 'never'")
    return value


class StreamOptions(StrictModel):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationRequest(SamplerStepFields):
    """The fields that all generation requests share. A null field counts as left out."""

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=0, le=INT32)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=INT32)] | None = None
    temperature: Annotated[float, AfterValidator(_checked_temperature)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=INT32)] | None = None  # 0 and -1 are off
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = None  # llama-server's name of repetition_penalty
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[
        Annotated[list[str], Field(max_length=_MAX_STOPS)] | None,
        BeforeValidator(_listed, json_schema_input_type=str | list[str] | None),
    ] = None
    stop_token_ids: Annotated[list[int], Field(fail_fast=True, max_length=_MAX_STOP_TOKENS)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    use_beam_search: bool | None = None
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    early_stopping: Annotated[
        bool | str | None, PlainValidator(_early_stopping, json_schema_input_type=bool | Literal["never"] | None)
    ] = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: Annotated[list[int], Field(fail_fast=True)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    resumable: bool | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None  # seconds from the request's arrival
    timings_per_token: bool | None = None
    return_progress: bool | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    priority: Annotated[int, Field(ge=-INT32, le=INT32)] | None = None
    cache_salt: str | None = None
    add_special_tokens: bool | None = None

    inner_fields = ("stream_options",)

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def num_candidates(self) -> int:
        """Number of answers to generate for each prompt; the best `num_choices` of them are returned."""
        return self.num_choices

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage is True

    @property
    def has_continuous_usage(self) -> bool:
        """Whether each chunk of a stream has the usage so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats is True

    def sampling(
        self,
        info: EngineInfo,
        *,
        max_tokens: int,
        tokens: StepTokens,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        is_constrained: bool = False,
    ) -> SamplingParams:
        """Return the engine's sampling parameters. Omitted fields have the checkpoint's default, or a neutral value.

        tokens: token ids of this body's bad words and DRY breakers. is_constrained: whether a grammar constrains the
        answer. Such an answer often repeats the prompt, so the checkpoint's repetition_penalty is not applied. Raises
        InvalidRequest for invalid values.
        """
        if self.repeat_penalty is not None and self.repetition_penalty not in (None, self.repeat_penalty):
            raise InvalidRequest(
                "repeat_penalty and repetition_penalty are two names of one field; give one of them",
                param="repeat_penalty",
            )
        mirostat = self.mirostat_params()
        default = sampling_defaults(info)
        if mirostat is not None:  # instead of the checkpoint's limits
            default |= {name: value for name, value in _NEUTRAL.items() if name in LIMITS}
        if is_constrained:
            default["repetition_penalty"] = _NEUTRAL["repetition_penalty"]
        top_k = self.top_k if self.top_k is not None else int(default["top_k"])
        params = SamplingParams(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            temperature=_first(self.temperature, default["temperature"]),
            top_p=_first(self.top_p, default["top_p"]),
            top_k=max(0, top_k),
            min_p=_first(self.min_p, default["min_p"]),
            typical_p=_first(self.typical_p, 1.0),
            top_n_sigma=max(0.0, self.top_n_sigma or 0.0),
            xtc=self.xtc(),
            mirostat=mirostat,
            presence_penalty=_first(self.presence_penalty, default["presence_penalty"]),
            frequency_penalty=_first(self.frequency_penalty, default["frequency_penalty"]),
            repetition_penalty=_first(self.repetition_penalty, self.repeat_penalty, default["repetition_penalty"]),
            dry=self.dry(tokens),
            logit_bias=_token_biases(self.logit_bias or {}, info.vocab_size),
            bad_words=tokens.bad_words,
            allowed_token_ids=None if self.allowed_token_ids is None else tuple(self.allowed_token_ids),
            seed=self.seed,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            logprob_token_ids=tuple(self.logprob_token_ids or ()),
            prompt_logprobs=prompt_logprobs,
        )
        params.check_vocabulary(info.vocab_size)
        return params


def sampling_defaults(info: EngineInfo) -> dict[str, float]:
    """Return the values of sampling parameters that a request leaves out: the checkpoint's, or neutral ones."""
    return {**_NEUTRAL, **info.generation_defaults}


def check_scores(body: GenerationRequest, num_logprobs: int | None, max_logprobs: int) -> list[str]:
    """Raise InvalidRequest for invalid log probability fields; return the names of the fields that have no effect.

    num_logprobs: number of logprobs per generated token; None if not requested.
    """
    if body.prompt_logprobs is not None:
        check_logprobs(body.prompt_logprobs, max_logprobs, "prompt_logprobs")
        if body.stream:
            raise InvalidRequest(
                "prompt_logprobs are only available without stream; leave one of them out", param="prompt_logprobs"
            )
    if body.logprob_token_ids is not None:
        given = len(body.logprob_token_ids)
        if not 0 < given <= _MAX_LOGPROB_TOKEN_IDS:
            raise InvalidRequest(
                f"logprob_token_ids has {given} token ids; it must have at least 1 and at most "
                f"{_MAX_LOGPROB_TOKEN_IDS}",
                param="logprob_token_ids",
            )
        if num_logprobs is None:
            raise InvalidRequest("logprob_token_ids needs logprobs", param="logprob_token_ids")
    return ["return_tokens_as_token_ids"] if body.return_tokens_as_token_ids and num_logprobs is None else []


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _token_biases(biases: dict[str, float], vocab_size: int) -> dict[int, float]:
    """Return logit_bias with its keys, which are strings in JSON, converted to token ids. Raises InvalidRequest."""
    for key in biases:
        if not (key.isascii() and key.isdecimal() and len(key) < 20 and int(key) < vocab_size):
            raise InvalidRequest(
                f"logit_bias has the key {quote(key)}; keys are token ids of this model, at least 0 and at most "
                f"{vocab_size - 1}; POST /tokenize returns the ids of a text",
                param="logit_bias",
            )
    return {int(key): float(bias) for key, bias in biases.items()}


def check_logprobs(requested: int, limit: int, param: str) -> None:
    """Raise InvalidRequest if `requested` logprobs per token is negative or above --max-logprobs."""
    if not 0 <= requested <= limit:
        raise InvalidRequest(f"{param} is {quote(requested)}; it must be at least 0 and at most {limit}", param=param)
