"""GenerationParams: what a request's body asks of the engine, prompts encoded and limits checked."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from engine.protocol import SamplingParams
from server.generation.answer_plan import AnswerPlan, plan_text
from server.generation.beam_fields import beam_options, check_beam_plan
from server.generation.beam_search import BeamOptions
from server.generation.checks import check_num_choices, check_request
from server.generation.choice import Prompt, TextOptions
from server.generation.infill_prompt import suffix_prompts
from server.generation.prompts import chat_prompt, room_for_output, text_prompts
from server.generation.slo import check_first_token
from server.generation.step_tokens import step_tokens
from server.generation.terms import RequestTerms, request_terms
from server.generation.truncation import chat_truncation, truncation_of
from server.schemas.chat import ChatCompletionRequest
from server.schemas.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from server.schemas.parameters import ignored_header
from server.schemas.sampling import GenerationRequest, check_scores
from server.served.model import ServedModel
from server.structured_outputs.request import FIELDS as CONSTRAINT_FIELDS
from server.text.json_size import json_size
from server.text.token_bound import TooManyTokens
from server.text.tokenizer import Tokenizer
from server.text_model import TextModel, fill_in_middle_of

_GENERIC_HEADER = "x-tool-call-format"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams:
    """What to generate for each of the prompts, n times."""

    tokenizer: Tokenizer
    prompts: list[Prompt]
    sampling: SamplingParams
    options: TextOptions
    n: int
    terms: RequestTerms
    prediction_ids: list[int]
    plan: AnswerPlan
    ignored: list[str]  # fields that are not honored
    headers: dict[str, str]  # of the response, which list them too
    reports_progress: bool = False  # deltas while the prompt is computed
    beams: BeamOptions | None = None  # a search for the likeliest answers, and not a draw
    end_ids: frozenset[int] = frozenset()  # that end an answer beside the model's EOS
    is_prompt_cut: bool = False  # of /infill: not all that was sent had a place in the context

    @property
    def is_followed(self) -> bool:
        """Whether its text is needed token by token: a client may read along, and the server looks for what ends it."""
        ends_by_text = bool(self.options.stop) or self.options.lines.limits() is not None
        return not self.terms.is_batch or ends_by_text

    @property
    def num_sequences(self) -> int:
        """That the engine may have of it at once."""
        return len(self.prompts) * (self.n if self.beams is None else self.beams.width)


def with_ends(params: GenerationParams, end_ids: frozenset[int]) -> GenerationParams:
    """The params, with tokens that end an answer as EOS does, unless EOS is ignored."""
    sampling = params.sampling
    if sampling.ignore_eos:
        return params
    stop_token_ids = tuple(sorted(end_ids.union(sampling.stop_token_ids)))
    sampling = msgspec.structs.replace(sampling, stop_token_ids=stop_token_ids)
    return replace(params, sampling=sampling, end_ids=end_ids)


async def chat_params(body: ChatCompletionRequest, model: ServedModel, arrival_s: float) -> GenerationParams:
    """Of a chat. Raises as check_request, InvalidRequest and AnswerTimeout; what costs little is checked before the
    template is rendered."""
    ignored, terms = check_request(body, model), request_terms(body, model, arrival_s)
    check_first_token(model, terms, 1)
    async with terms.in_time():
        return await _chat_params(body, model, ignored, terms)


async def _chat_params(
    body: ChatCompletionRequest, model: ServedModel, ignored: list[str], terms: RequestTerms
) -> GenerationParams:
    requested_max_tokens = body.requested_max_tokens
    beams, ignored_by_beams = beam_options(body)
    ignored += ignored_by_beams
    check_num_choices(body, 1, model)
    num_logprobs = body.num_logprobs(model.config.max_logprobs)
    ignored += check_scores(body, num_logprobs, model.config.max_logprobs)
    text_model = await model.text_model()
    info = model.client.info
    truncation = chat_truncation(body, info.max_model_len, num_reserved=requested_max_tokens or 1)
    prepared = await chat_prompt(
        body,
        text_model,
        info,
        constraint_fields=_constraint_fields(body),
        thinking_budget=body.thinking_token_budget,
        truncation=truncation,
    )
    if beams is not None:
        check_beam_plan(prepared.plan)
    prompt = prepared.prompt
    if truncation is not None:
        prompt = truncation.apply(prompt, text_model.tokenizer)
    max_tokens = room_for_output(
        [prompt],
        info.max_model_len,
        requested=requested_max_tokens,
        param="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens",
        default=None,
        prompt_param="messages",
    )
    tokens = await step_tokens(body, text_model, info.vocab_size)
    sampling = body.sampling(
        info,
        max_tokens=max_tokens,
        logprobs=num_logprobs,
        prompt_logprobs=body.prompt_logprobs,
        tokens=tokens,
        is_constrained=prepared.plan.grammar is not None,
    )
    prediction_ids = await _prediction_ids(body, text_model, info.max_model_len) if beams is None else []
    params = _params(body, text_model.tokenizer, [prompt], sampling, terms, plan=prepared.plan, ignored=ignored)
    if prepared.is_generic:
        params.headers[_GENERIC_HEADER] = "generic"
    return replace(_with_beams(params, body, beams), prediction_ids=prediction_ids)


async def completion_params(
    body: CompletionRequest,
    model: ServedModel,
    arrival_s: float,
    *,
    default_max_tokens: int | None = DEFAULT_MAX_TOKENS,
) -> GenerationParams:
    """Of a text completion. default_max_tokens: None is the rest of the context. Raises as check_request,
    InvalidRequest and AnswerTimeout."""
    ignored, terms = check_request(body, model), request_terms(body, model, arrival_s)
    check_first_token(model, terms, 1)
    async with terms.in_time():
        return await _completion_params(body, model, ignored, terms, default_max_tokens)


async def _completion_params(
    body: CompletionRequest,
    model: ServedModel,
    ignored: list[str],
    terms: RequestTerms,
    default_max_tokens: int | None,
) -> GenerationParams:
    body.check(model.config.max_logprobs)
    ignored += check_scores(body, body.logprobs, model.config.max_logprobs)
    echo = bool(body.echo)
    text_model = await model.text_model()
    info = model.client.info
    beams, ignored_by_beams = beam_options(body)
    ignored += ignored_by_beams
    check_num_choices(body, len(body.prompt), model)
    add_special_tokens = body.add_special_tokens is not False
    num_reserved = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    truncation = truncation_of(body, info.max_model_len, num_reserved=num_reserved)
    fim = fill_in_middle_of(text_model, "suffix", instead="leave the field out") if body.suffix else None
    if fim is not None and body.suffix:
        prompts = await suffix_prompts(
            body.prompt,
            body.suffix,
            fim,
            text_model,
            add_special_tokens=add_special_tokens,
            max_model_len=info.max_model_len,
        )
    else:
        prompts = await text_prompts(
            body.prompt, text_model, info, add_special_tokens=add_special_tokens, echo=echo, truncation=truncation
        )
    max_tokens = room_for_output(
        prompts,
        info.max_model_len,
        requested=body.max_tokens,
        param="max_tokens",
        default=default_max_tokens,
        prompt_param="prompt",
    )
    scored = [num for num in (body.logprobs if echo else None, body.prompt_logprobs) if num is not None]
    prompt_logprobs = max(scored, default=None)
    tokens = await step_tokens(body, text_model, info.vocab_size)
    # The best of several candidates are those whose tokens are likeliest, whether the client wants to see that or not.
    needs_logprobs = beams is None and body.num_candidates > body.num_choices
    num_logprobs = 0 if body.logprobs is None and needs_logprobs else body.logprobs
    fields = _constraint_fields(body)
    plan = await text_model.workers.run(partial(plan_text, fields, text_model.tokenizer), size=json_size(fields))
    sampling = body.sampling(
        info,
        max_tokens=max_tokens,
        logprobs=num_logprobs,
        prompt_logprobs=prompt_logprobs,
        tokens=tokens,
        is_constrained=plan.grammar is not None,
    )
    if beams is not None:
        check_beam_plan(plan)
    params = _params(body, text_model.tokenizer, prompts, sampling, terms, plan=plan, ignored=ignored, echo=echo)
    params = _with_beams(params, body, beams)
    return params if fim is None else with_ends(params, fim.end_ids)


def _params(
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


def _with_beams(params: GenerationParams, body: GenerationRequest, beams: BeamOptions | None) -> GenerationParams:
    return params if beams is None else replace(params, beams=beams, n=body.num_choices)


def _constraint_fields(body: GenerationRequest) -> dict[str, Any]:
    return {name: value for name, value in (body.model_extra or {}).items() if name in CONSTRAINT_FIELDS}


async def _prediction_ids(body: ChatCompletionRequest, text_model: TextModel, max_model_len: int) -> list[int]:
    """What the client expects as the answer. Raises InvalidRequest if no answer can be that long."""
    if body.prediction is None:
        return []
    text = body.prediction.text
    encode = partial(
        text_model.tokenizer.encode, text, add_special_tokens=False, parse_special=False, at_most=max_model_len
    )
    try:
        ids = await text_model.workers.run_unless_short(encode, size=len(text))
    except TooManyTokens as error:
        raise _long_prediction(f"at least {error.num_tokens:,}", max_model_len) from None
    if len(ids) > max_model_len:
        raise _long_prediction(f"{len(ids):,}", max_model_len)
    return ids


def _long_prediction(num_tokens: str, max_model_len: int) -> InvalidRequest:
    return InvalidRequest(
        f"the prediction has {num_tokens} tokens; prompt and answer can have {max_model_len:,}; shorten it",
        param="prediction",
    )
