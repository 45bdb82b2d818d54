"""POST /v1/completions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from server.generation.completion_params import completion_params
from server.generation.early_checks import check_completion
from server.generation.generation import Generation
from server.http.answer import answer
from server.http.body import json_body
from server.http.models import asked_model
from server.http.preparing import prepared
from server.http.resume import resumable, resumed_by_header
from server.protocols.completions import CompletionFormatter
from server.schemas.completions import CompletionRequest
from server.served.model import ServedModel

router = APIRouter(tags=["Chats and completions"])


async def _check(_request: Request, body: CompletionRequest, model: ServedModel) -> None:
    check_completion(body, model)


@router.post("/v1/completions")
async def create_completion(
    request: Request,
    body: Annotated[CompletionRequest, Depends(json_body(CompletionRequest))],
    model: Annotated[ServedModel, Depends(asked_model(CompletionRequest, _check))],
) -> Response:
    """Continue one or several texts, as a whole or as a stream."""
    if body.resumable and (stream := resumed_by_header(request)) is not None:
        return stream
    params = await prepared(request, model, completion_params(body, model, request.state.arrival_s))
    formatter = CompletionFormatter(body, model.name, params.tokenizer)
    generation = Generation(model, params)
    if body.resumable:
        return await resumable(request, generation, formatter, params.headers)
    return await answer(request, generation, formatter, stream=bool(body.stream), headers=params.headers)
