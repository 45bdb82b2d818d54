"""Creation of the engine request for each choice, and of the Choice that reads its outputs."""

import msgspec

from engine.protocol import EngineRequest
from server.generation.accounting.metering import ChoiceMeter
from server.generation.choice import Choice
from server.generation.params.generation_params import GenerationParams
from server.served.model import ServedModel

_BATCH_TOKENS = 32  # per output of a batch line, whose text no client reads along


def new_choice(model: ServedModel, params: GenerationParams, index: int, trace_id: str | None) -> Choice:
    """Create the state of choice number `index`; choice numbers run over all prompts, `params.n` for each."""
    prompt = params.prompts[index // params.n]
    meter = ChoiceMeter(
        model.metrics,
        params.terms.arrival_s,
        len(prompt.ids) if index % params.n == 0 else 0,  # the first choice of a shared prompt counts its tokens
        knows_wait=params.beams is None,
        trace_id=trace_id,
        is_timed=not params.terms.is_batch,
    )
    return Choice(
        index,
        prompt,
        params.options,
        params.tokenizer,
        meter,
        eos_ids=params.end_ids.union(() if params.sampling.ignore_eos else params.tokenizer.eos_token_ids),
        reader=params.plan.reader(model.metrics),
        grammar_param=params.plan.grammar_param,
    )


def engine_request(params: GenerationParams, index: int, request_id: str, stream_interval: int) -> EngineRequest:
    """Create the engine request of choice number `index`; choice numbers run over all prompts, `params.n` for each.
    stream_interval: tokens per output, if neither a batch nor an end by text decides it."""
    sampling = params.sampling
    if sampling.seed is not None and params.n > 1:
        seed = (sampling.seed + index % params.n + 2**63) % 2**64 - 2**63  # wraps around as int64 does
        sampling = msgspec.structs.replace(sampling, seed=seed)
    if params.n > 1 and index % params.n and not params.options.echo:
        sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)  # the prompt's first choice has them
    return EngineRequest(
        id=request_id,
        prompt_ids=params.prompts[index // params.n].ids,
        sampling=sampling,
        **params.terms.engine_fields(is_first=index == 0),
        cache_salt=params.terms.cache_salt,
        reports_progress=params.reports_progress,
        prediction_ids=params.prediction_ids,
        grammar=params.plan.grammar,
        thinking=params.plan.thinking,
        tokens_per_output=_tokens_per_output(params, stream_interval),
    )


def _tokens_per_output(params: GenerationParams, stream_interval: int) -> int:
    if params.ends_by_text:
        return 1  # tokens after the end would be computed in vain
    return _BATCH_TOKENS if params.terms.is_batch else stream_interval
