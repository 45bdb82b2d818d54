"""GenerationParams of a chat."""

from dataclasses import replace
from functools import partial

from engine.errors import InvalidRequest
from server.generation.beam_fields import beam_options, check_beam_plan
from server.generation.checks import check_fields, check_num_choices
from server.generation.params import GenerationParams, constraint_fields, generation_params, with_beams
from server.generation.prompts import chat_prompt, room_for_output
from server.generation.slo import check_first_token
from server.generation.step_tokens import step_tokens
from server.generation.terms import RequestTerms, request_terms
from server.generation.truncation import chat_truncation
from server.schemas.chat import ChatCompletionRequest
from server.schemas.sampling import check_scores
from server.served.model import ServedModel
from server.text.token_bound import TooManyTokens
from server.text_model import TextModel

_GENERIC_HEADER = "x-tool-call-format"


async def chat_params(body: ChatCompletionRequest, model: ServedModel, arrival_s: float) -> GenerationParams:
    """Return what a chat asks of the engine. What costs little is checked before the template is rendered.

    Raises InvalidRequest, WaitTooLong, EngineUnavailable and AnswerTimeout.
    """
    ignored, terms = check_fields(body, model), request_terms(body, model, arrival_s)
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
        constraint_fields=constraint_fields(body),
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
    params = generation_params(
        body, text_model.tokenizer, [prompt], sampling, terms, plan=prepared.plan, ignored=ignored
    )
    if prepared.is_generic:
        params.headers[_GENERIC_HEADER] = "generic"
    return replace(with_beams(params, body, beams), prediction_ids=prediction_ids)


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
