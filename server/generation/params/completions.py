"""completion_params: turns the body of a text completion into GenerationParams."""

from functools import partial

from engine.protocol import EngineInfo
from server.generation.answer_plan import plan_text
from server.generation.beams.fields import beam_options, check_beam_plan
from server.generation.choice import Prompt
from server.generation.infill.prompt import suffix_prompts
from server.generation.params.checks import CheckedBody, check_fields, check_num_choices
from server.generation.params.generation_params import (
    GenerationParams,
    constraint_fields,
    generation_params,
    with_beams,
    with_ends,
)
from server.generation.params.prompts import room_for_output, text_prompts
from server.generation.params.step_tokens import step_tokens
from server.generation.params.truncation import truncation_of
from server.generation.slo import check_first_token
from server.generation.terms import RequestTerms, request_terms
from server.schemas.completions import DEFAULT_MAX_TOKENS, CompletionRequest
from server.schemas.sampling import check_scores
from server.served.model import ServedModel
from server.text.fill_in_middle import FillInMiddle
from server.text.workers import json_size
from server.text_model import TextModel, fill_in_middle_of


def check_completion(body: CompletionRequest, model: ServedModel) -> CheckedBody:
    """Check the fields of a text completion that can be checked without the engine. Raises InvalidRequest."""
    max_logprobs = model.config.max_logprobs
    ignored = check_fields(body, model)
    body.check(max_logprobs)
    ignored += check_scores(body, body.logprobs, max_logprobs)
    beams, ignored_by_beams = beam_options(body)
    return CheckedBody([*ignored, *ignored_by_beams], beams, body.logprobs)


async def completion_params(
    body: CompletionRequest,
    model: ServedModel,
    arrival_s: float,
    *,
    default_max_tokens: int | None = DEFAULT_MAX_TOKENS,
) -> GenerationParams:
    """Return the GenerationParams of a text completion. default_max_tokens: max_tokens if the body sets none; None to
    allow all that the context leaves. Raises InvalidRequest, WaitTooLong, EngineUnavailable and AnswerTimeout."""
    checked, terms = check_completion(body, model), request_terms(body, model, arrival_s)
    check_first_token(model, terms, 1)
    async with terms.in_time():
        return await _completion_params(body, model, checked, terms, default_max_tokens)


async def _completion_params(
    body: CompletionRequest,
    model: ServedModel,
    checked: CheckedBody,
    terms: RequestTerms,
    default_max_tokens: int | None,
) -> GenerationParams:
    beams = checked.beams
    echo = bool(body.echo)
    text_model = await model.text_model()
    info = model.client.info
    check_num_choices(body, len(body.prompt), model)
    prompts, fim = await _prompts(body, text_model, info)
    max_tokens = room_for_output(
        prompts, info.max_model_len, requested=body.max_tokens, default=default_max_tokens, prompt_param="prompt"
    )
    scored = [num for num in (body.logprobs if echo else None, body.prompt_logprobs) if num is not None]
    prompt_logprobs = max(scored, default=None)
    tokens = await step_tokens(body, text_model, info.vocab_size)
    # The best candidates are chosen by log probability, whether or not the client asks to see it.
    needs_logprobs = beams is None and body.num_candidates > body.num_choices
    num_logprobs = 0 if body.logprobs is None and needs_logprobs else body.logprobs
    fields = constraint_fields(body)
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
    params = generation_params(
        body, text_model.tokenizer, prompts, sampling, terms, plan=plan, ignored=checked.ignored, echo=echo
    )
    params = with_beams(params, body, beams)
    return params if fim is None else with_ends(params, fim.end_ids)


async def _prompts(
    body: CompletionRequest, text_model: TextModel, info: EngineInfo
) -> tuple[list[Prompt], FillInMiddle | None]:
    """Return the prompts and, if the body has a suffix, the model's fill-in-the-middle format."""
    has_special = body.add_special_tokens is not False
    num_reserved = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    truncation = truncation_of(body, info.max_model_len, num_reserved=num_reserved)
    if body.suffix:
        fim = fill_in_middle_of(text_model, "suffix", instead="leave the field out")
        prompts = await suffix_prompts(body.prompt, body.suffix, fim, text_model, info, add_special_tokens=has_special)
        return prompts, fim
    prompts = await text_prompts(
        body.prompt, text_model, info, add_special_tokens=has_special, echo=bool(body.echo), truncation=truncation
    )
    return prompts, None
