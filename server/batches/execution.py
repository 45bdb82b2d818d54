"""answer_body: the answer to the body of a batch's line, by the same endpoint as that of an HTTP request."""

from typing import Any

import msgspec

from server.context import ServerContext
from server.endpoints.binding.endpoint import EndpointRequest
from server.endpoints.binding.registry import BATCH_ENDPOINTS, SUITABLE_PATHS
from server.keys.caller import current_caller
from server.metrics.request_record import current_record


async def answer_body(
    context: ServerContext, path: str, raw: dict[str, Any], *, arrival_s: float, request_id: str
) -> tuple[bytes, dict[str, str]]:
    """Return the answer's JSON for the caller of this task, and the headers that say what the body's fields led to.

    path: of a batchable endpoint. arrival_s: when the line was started (time.monotonic()). Raises what the endpoint
    would answer as an error.
    """
    endpoint = BATCH_ENDPOINTS[path]
    body = endpoint.body(raw)
    model = endpoint.model(body, context.models)
    if (record := current_record()) is not None:
        record.model_name = model.name
    request = EndpointRequest(
        context=context,
        model=model,
        capability=endpoint.capability,
        suitable=SUITABLE_PATHS,
        owner=current_caller().owner,
        id=request_id,
        arrival_s=arrival_s,
        is_batch=True,
    )
    await endpoint.check_before_loading(body, request)
    async with model.in_use(is_batch=True):
        if model.adapter is not None:
            await context.models.adapters.read(model.name, model)
        work = await endpoint.prepare(body, request)
        return msgspec.json.encode(await work.collect()), work.headers
