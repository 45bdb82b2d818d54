"""GenerationParams for a chat."""

from dataclasses import replace
from functools import partial

from engine.errors import InvalidRequest
from engine.protocol import EngineInfo
from server.chat.request import ChatRequest
from server.generation.answer_plan import AnswerPlan, plan_answer
from server.generation.beams.fields import beam_options, check_beam_plan
from server.generation.params.checks import CheckedBody, check_fields, check_num_choices
from server.generation.params.generation_params import (
    GenerationParams,
    constraint_fields,
    generation_params,
    with_beams,
    with_end,
)
from server.generation.params.prompts import ChatPrompt, chat_model, chat_size, render_prompt, room_for_output
from server.generation.params.step_tokens import step_tokens
from server.generation.params.truncation import Truncation, chat_truncation
from server.generation.slo import check_first_token
from server.generation.terms import RequestTerms, request_terms
from server.keys.caller import current_caller
from server.schemas.chat import ChatOptions
from server.schemas.sampling import check_scores
from server.served.model import ServedModel
from server.structured_outputs.request import constraint_of
from server.text.token_bound import TooManyTokens
from server.text.workers import json_size
from server.text_model import TextModel

_GENERIC_HEADER = "x-tool-call-format"


async def chat_params(request: ChatRequest, model: ServedModel, arrival_s: float) -> GenerationParams:
    """Check, render and tokenize a chat, in this order, and return its params. Raises InvalidRequest with the client's
    field names, WaitTooLong, EngineUnavailable and AnswerTimeout."""
    checked, terms = check_chat(request, model), request_terms(request.options, model, arrival_s)
    check_first_token(model, terms, 1)
    async with terms.in_time():
        with request.paths.in_errors():
            return await _chat_params(request, model, checked, terms)


def check_chat(request: ChatRequest, model: ServedModel) -> CheckedBody:
    """Check the fields of a chat that need no engine. Raises InvalidRequest with the client's field names."""
    options, max_logprobs = request.options, model.config.max_logprobs
    with request.paths.in_errors():
        ignored = check_fields(options, model, extra=request.extra, passed_on=request.passed_on)
        beams, ignored_by_beams = beam_options(options)
        num_logprobs = options.num_logprobs(max_logprobs)
        ignored += [*ignored_by_beams, *check_scores(options, num_logprobs, max_logprobs)]
    return CheckedBody(ignored, beams, num_logprobs)


async def _chat_params(
    request: ChatRequest, model: ServedModel, checked: CheckedBody, terms: RequestTerms
) -> GenerationParams:
    options, beams = request.options, checked.beams
    requested_max_tokens = options.requested_max_tokens
    check_num_choices(options, 1, model)
    text_model = await model.text_model()
    info = model.client.info
    truncation = chat_truncation(options, info.max_model_len, num_reserved=requested_max_tokens or 1)
    chat, plan = await _planned_prompt(request, text_model, info, truncation)
    if beams is not None:
        check_beam_plan(plan)
    prompt = chat.prompt
    if truncation is not None:
        prompt = truncation.apply(prompt, text_model.tokenizer)
    param = "max_tokens" if options.max_completion_tokens is None else "max_completion_tokens"
    max_tokens = room_for_output(
        [prompt], info.max_model_len, requested=requested_max_tokens, param=param, prompt_param="messages"
    )
    tokens = await step_tokens(options, text_model, info.vocab_size)
    sampling = options.sampling(
        info,
        max_tokens=max_tokens,
        logprobs=checked.num_logprobs,
        prompt_logprobs=options.prompt_logprobs,
        tokens=tokens,
        is_constrained=plan.grammar is not None,
    )
    prediction_ids = await _prediction_ids(options, text_model, info.max_model_len) if beams is None else []
    params = generation_params(
        options, text_model.tokenizer, [prompt], sampling, terms, plan=plan, ignored=checked.ignored
    )
    if (end := chat.source.rendered.user_end) is not None:
        params = with_end(params, end)
    if chat.source.is_generic:
        params.headers[_GENERIC_HEADER] = "generic"
    return replace(with_beams(params, options, beams), prediction_ids=prediction_ids)


async def _planned_prompt(
    request: ChatRequest, text_model: TextModel, info: EngineInfo, truncation: Truncation | None
) -> tuple[ChatPrompt, AnswerPlan]:
    options, model, tokenizer = request.options, chat_model(text_model), text_model.tokenizer
    constrained_by = constraint_fields(options)
    at_most = info.max_model_len if truncation is None else None
    salt = current_caller().cache_salt(options.cache_salt or "")

    def work() -> tuple[ChatPrompt, AnswerPlan]:
        constraint = constraint_of(constrained_by)
        prompt = render_prompt(
            request.chat, options, model, tokenizer, info, truncation=truncation, at_most=at_most, cache_salt=salt
        )
        budget = options.thinking_token_budget
        return prompt, plan_answer(prompt.source, model, tokenizer, constraint=constraint, thinking_budget=budget)

    return await text_model.workers.run(work, size=chat_size(request.chat) + json_size(constrained_by))


async def _prediction_ids(options: ChatOptions, text_model: TextModel, max_model_len: int) -> list[int]:
    """Tokenize the predicted output. Raises InvalidRequest if it is longer than the context."""
    if options.prediction is None:
        return []
    text = options.prediction.text
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
