"""Request preparation shared by the endpoints for pooling models."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from engine.protocol import PoolingOutput, PoolingTask
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import PoolingWork
from server.generation.terms import request_terms
from server.pooling.checks import check_pooling_fields, checked_params, pooling_info
from server.pooling.encoding import EncodedInputs, PairNames, RequestEncoder, paths_of
from server.pooling.scores import encoded_pairs_of, scores_of
from server.schemas.parameters import ignored_header
from server.schemas.pooling import InputFields, PoolingFields


async def _check(body: PoolingFields, request: EndpointRequest) -> None:
    """Check the fields that need no engine. Raises InvalidRequest, also for a model known not to be a pooling model."""
    check_pooling_fields(body, request.model)
    if request.model.info is not None:
        pooling_info(request.model)


pooling_endpoint: Callable[..., Endpoint[Any]] = partial(
    Endpoint, tag="Embeddings and scores", capability=Capability.POOLS, check=_check
)


async def pooling_work(
    body: InputFields,
    request: EndpointRequest,
    tasks: Sequence[PoolingTask],
    write: Callable[[list[PoolingOutput], int], Awaitable[Any]],
    *,
    name: str = "input",
    dimensions: int | None = None,
    normalize: bool | None = None,
) -> PoolingWork:
    """Tokenize the inputs of a body for the first of `tasks` that the model supports.

    write: builds the answer from the outputs and the number of tokens. name: name of the field with the inputs, for
    errors. Fields are checked before the costly tokenization.

    Raises QueueFull, EngineUnavailable, InvalidRequest, RateLimited and AnswerTimeout.
    """
    model = request.model
    async with request.preparing():
        ignored, terms = check_pooling_fields(body, model), request_terms(body, model, request.arrival_s)
        task = request.suitable.chosen_task(model, tasks)
        params = checked_params(model, task, dimensions=dimensions, normalize=normalize)
        info = pooling_info(model)
        if body.input_type is not None and not info.prompts:
            ignored.append("input_type")
        async with terms.in_time():
            width = info.values_per_token(params)
            encoder = RequestEncoder(body, await model.text_model(), model.client.info, values_per_token=width)
            items = await encoder.inputs(body, name)
    paths = ["messages"] if body.messages is not None else paths_of(name, len(items))
    inputs = EncodedInputs(items=items, paths=paths, params=params, terms=terms)
    return PoolingWork(model=model, inputs=inputs, write=write, headers=ignored_header(ignored))


async def score_work(
    pairs: Sequence[tuple[str, str]],
    body: PoolingFields,
    request: EndpointRequest,
    names: PairNames,
    write: Callable[[list[float], int], Any],
    *,
    use_activation: bool | None,
) -> PoolingWork:
    """Tokenize pairs of texts to be scored. write: builds the answer from the scores and the number of tokens.

    Raises QueueFull, EngineUnavailable, InvalidRequest, RateLimited and AnswerTimeout.
    """
    model = request.model
    async with request.preparing():
        ignored, terms = check_pooling_fields(body, model), request_terms(body, model, request.arrival_s)
        task = request.suitable.chosen_task(model, (PoolingTask.SCORE, PoolingTask.EMBED))
        encoded = await encoded_pairs_of(pairs, body, model, terms, names, task=task, use_activation=use_activation)

    async def write_scores(outputs: list[PoolingOutput], num_tokens: int) -> Any:
        return write(await scores_of(outputs, encoded.pair_indices, model), num_tokens)

    return PoolingWork(model=model, inputs=encoded.inputs, write=write_scores, headers=ignored_header(ignored))
