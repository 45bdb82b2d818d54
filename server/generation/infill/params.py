"""GenerationParams for /infill: a gap in a file, with the fields that editor plugins send."""

from dataclasses import replace
from functools import partial

from engine.errors import ContextLengthExceeded
from server.generation.answer_plan import AnswerPlan
from server.generation.infill.line_limits import LineOptions
from server.generation.infill.prompt import infill_prompt
from server.generation.params.checks import check_fields
from server.generation.params.generation_params import GenerationParams, generation_params, with_ends
from server.generation.params.prompts import room_for_output
from server.generation.params.step_tokens import step_tokens
from server.generation.slo import check_first_token
from server.generation.terms import RequestTerms, request_terms
from server.schemas.infill import InfillRequest
from server.served.model import ServedModel
from server.text_model import fill_in_middle_of

_ANSWER_SHARE = 4  # without a limit, a quarter of the context is reserved for the answer


def check_infill(body: InfillRequest, model: ServedModel) -> list[str]:
    """Check the body's fields that need no engine; return the names of ignored ones. Raises InvalidRequest."""
    return check_fields(body, model) + body.check()


async def infill_params(body: InfillRequest, model: ServedModel, arrival_s: float) -> GenerationParams:
    """Return the params for filling a gap. Raises InvalidRequest, WaitTooLong, EngineUnavailable and AnswerTimeout."""
    ignored, terms = check_infill(body, model), request_terms(body, model, arrival_s)
    check_first_token(model, terms, 1)
    async with terms.in_time():
        return await _infill_params(body, model, ignored, terms)


async def _infill_params(
    body: InfillRequest, model: ServedModel, ignored: list[str], terms: RequestTerms
) -> GenerationParams:
    text_model = await model.text_model()
    info = model.client.info
    fim = fill_in_middle_of(text_model, "input_suffix", instead="send the prefix to /v1/completions")
    requested = body.requested_max_tokens
    if requested is not None and requested >= info.max_model_len:
        raise ContextLengthExceeded(
            f"n_predict is {requested}, and the model takes {info.max_model_len} tokens of prompt and output "
            "together; ask for fewer",
            param="n_predict",
        )
    num_reserved = info.max_model_len // _ANSWER_SHARE if requested is None else requested
    max_prompt = info.max_model_len - num_reserved
    prompt, is_cut = await text_model.workers.run(
        partial(infill_prompt, body, fim, text_model.tokenizer, max_prompt), size=body.size
    )
    max_tokens = room_for_output(
        [prompt], info.max_model_len, requested=requested, param="n_predict", prompt_param="input_prefix"
    )
    tokens = await step_tokens(body, text_model, info.vocab_size)
    sampling = body.sampling(info, max_tokens=max_tokens, tokens=tokens)
    params = generation_params(
        body, text_model.tokenizer, [prompt], sampling, terms, plan=AnswerPlan(), ignored=ignored
    )
    lines = LineOptions(body.n_indent or 0, (body.t_max_predict_ms or 0) / 1000)
    options = replace(params.options, lines=lines)
    params = replace(params, options=options, is_prompt_cut=is_cut, reports_progress=False)
    return with_ends(params, fim.end_ids)
