"""GenerationParams: a generation request with tokenized prompts and checked limits."""

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from engine.protocol import SamplingParams
from server.generation.answer_plan import AnswerPlan
from server.generation.beams.search import BeamOptions
from server.generation.choice import Prompt, TextOptions
from server.generation.terms import RequestTerms
from server.schemas.parameters import ignored_header
from server.schemas.sampling import GenerationRequest
from server.structured_outputs.request import CONSTRAINT_FIELDS
from server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """A checked generation request: prompts to answer `n` times each, sampling parameters, and options for the text."""

    tokenizer: Tokenizer
    prompts: list[Prompt]
    sampling: SamplingParams
    options: TextOptions
    n: int
    terms: RequestTerms
    prediction_ids: list[int]
    plan: AnswerPlan
    ignored: list[str]  # fields that are not honored
    headers: dict[str, str]  # response headers; one lists the ignored fields
    reports_progress: bool = False  # sends deltas while the prompt is computed
    beams: BeamOptions | None = None  # search for beams instead of sampling
    end_ids: frozenset[int] = frozenset()  # tokens that end an answer in addition to EOS
    is_prompt_cut: bool = False  # /infill left out a part of its input

    @property
    def ends_by_text(self) -> bool:
        """Whether the text is needed during generation, to end it at a stop string or line limit."""
        return bool(self.options.stop) or self.options.lines.limits() is not None

    @property
    def num_sequences(self) -> int:
        """Maximum number of the request's sequences in the engine at the same time."""
        return len(self.prompts) * (self.n if self.beams is None else self.beams.width)


def with_ends(params: GenerationParams, end_ids: frozenset[int]) -> GenerationParams:
    """Return the params with `end_ids` as additional stop tokens; unchanged if the request ignores EOS."""
    sampling = params.sampling
    if sampling.ignore_eos:
        return params
    stop_token_ids = tuple(sorted(end_ids.union(sampling.stop_token_ids)))
    sampling = msgspec.structs.replace(sampling, stop_token_ids=stop_token_ids)
    return replace(params, sampling=sampling, end_ids=end_ids)


def with_end(params: GenerationParams, end: str) -> GenerationParams:
    """Return the params with the text `end`, often a control token, as an additional end of the answer; unchanged if
    the request ignores EOS."""
    end_id = params.tokenizer.token_to_id(end) if end in params.tokenizer.special_texts else None
    if end_id is not None:
        return with_ends(params, frozenset({end_id}))
    if params.sampling.ignore_eos:
        return params
    return replace(params, options=replace(params.options, stop=(*params.options.stop, end)))


def generation_params(
    body: GenerationRequest,
    tokenizer: Tokenizer,
    prompts: list[Prompt],
    sampling: SamplingParams,
    terms: RequestTerms,
    *,
    plan: AnswerPlan,
    ignored: list[str],
    echo: bool = False,
) -> GenerationParams:
    options = TextOptions(
        stop=tuple(body.stop or ()),
        include_stop=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        min_tokens=sampling.min_tokens,
        echo=echo,
        logprobs=sampling.logprobs is not None,
        echo_top=sampling.logprobs or 0,
        kept_ids=plan.kept_ids,
    )
    return GenerationParams(
        tokenizer=tokenizer,
        prompts=prompts,
        sampling=sampling,
        options=options,
        n=body.num_candidates,
        terms=terms,
        reports_progress=bool(body.return_progress),
        prediction_ids=[],
        plan=plan,
        ignored=[*ignored, *plan.ignored],
        headers=ignored_header([*ignored, *plan.ignored]),
    )


def with_beams(params: GenerationParams, body: GenerationRequest, beams: BeamOptions | None) -> GenerationParams:
    return params if beams is None else replace(params, beams=beams, n=body.num_choices)


def constraint_fields(body: GenerationRequest) -> dict[str, Any]:
    return {name: value for name, value in (body.model_extra or {}).items() if name in CONSTRAINT_FIELDS}
