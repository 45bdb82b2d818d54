"""The body of POST /infill, in llama-server's shape: the code before and after a gap, and parts of other files."""

from typing import Annotated, Any

from pydantic import Field

from engine.errors import InvalidRequest, UnsupportedParameter
from engine.protocol import EngineInfo, SamplingParams
from server.schemas.base import INT32, StrictModel
from server.schemas.sampling import GenerationRequest

_MAX_EXTRA = 1024  # files; editors send about sixteen
_RANDOM_SEEDS = (-1, 2**32 - 1)  # llama-server's values for a random seed

# Fields of other endpoints and of llama-server that would change the answer
_REFUSED = (
    "grammar",
    "logprob_token_ids",
    "lora",
    "n_probs",
    "prompt_logprobs",
    "resumable",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "stream_options",
    "truncate_prompt_tokens",
    "truncation_side",
    "use_beam_search",
)


class ExtraFile(StrictModel):
    """A part of another file, for context."""

    text: str
    filename: str | None = None
    time: Any = None  # time of the editor; not in the prompt


class InfillRequest(GenerationRequest):
    """The body of POST /infill. Sampling fields may have OpenAI's or llama-server's names."""

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[ExtraFile], Field(fail_fast=True, max_length=_MAX_EXTRA)] | None = None
    prompt: str | None = None  # the beginning of the cursor's line, which continues the prefix
    n_predict: Annotated[int, Field(ge=-1, le=INT32)] | None = None
    n_indent: Annotated[int, Field(ge=0, le=INT32)] | None = None
    t_max_predict_ms: Annotated[float, Field(ge=0)] | None = None
    return_tokens: bool | None = None
    response_fields: list[str] | None = None
    # Without an effect, and therefore listed as ignored:
    cache_prompt: bool | None = None  # prefixes are always cached
    id_slot: int | None = None
    n_keep: int | None = None
    repeat_last_n: int | None = None
    samplers: Any = None
    t_max_prompt_ms: float | None = None
    timings_per_token: bool | None = None
    grammar: Any = None
    lora: Any = None
    n_probs: int | None = None

    inner_fields = ("input_extra",)

    @property
    def size(self) -> int:
        """Number of characters in the prefix, prompt, suffix and extra files."""
        files = sum(len(file.text) for file in self.input_extra or [])
        return len(self.input_prefix) + len(self.prompt or "") + len(self.input_suffix) + files

    @property
    def requested_max_tokens(self) -> int | None:
        """Limit of generated tokens; None means the rest of the context."""
        requested = self.max_tokens if self.n_predict is None else self.n_predict
        return None if requested == -1 else requested

    def check(self) -> list[str]:
        """Return the names of ignored fields. Raises InvalidRequest for fields that cannot be honored."""
        for name in _REFUSED:
            value = getattr(self, name)
            if not (value is None or value is False or value in ("", []) or (name, value) == ("n_probs", 0)):
                raise UnsupportedParameter(f"{name} is not supported by this endpoint; leave it out", param=name)
        if self.num_choices > 1:
            raise InvalidRequest(f"n is {self.num_choices}; /infill returns one answer; leave n out", param="n")
        if self.max_tokens is not None and self.n_predict is not None and self.max_tokens != self.n_predict:
            raise InvalidRequest(
                f"max_tokens is {self.max_tokens} and n_predict is {self.n_predict}; give one of them",
                param="n_predict",
            )
        is_effective = {
            "cache_prompt": self.cache_prompt is not False,
            "id_slot": self.id_slot in (None, -1),
            "n_keep": self.n_keep in (None, 0),
            "repeat_last_n": self.repeat_last_n is None or self.repeat_penalty in (None, 1),
            "samplers": not self.samplers,
            "t_max_prompt_ms": not self.t_max_prompt_ms,
            "timings_per_token": not self.timings_per_token,
        }
        return [name for name, honored in is_effective.items() if not honored]

    def sampling(self, info: EngineInfo, **given: Any) -> SamplingParams:
        """Return the engine's sampling parameters, with llama-server's random seeds converted."""
        own = self.model_copy(
            update={
                "seed": None if self.seed in _RANDOM_SEEDS else self.seed,
            }
        )
        return GenerationRequest.sampling(own, info, **given)
