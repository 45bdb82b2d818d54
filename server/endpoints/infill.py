"""POST /infill, in llama-server's format."""

from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import GenerationWork
from server.generation.infill.params import check_infill, infill_params
from server.openapi.operation import EVENTS, JSON
from server.protocols.infill import InfillFormatter
from server.schemas.infill import InfillRequest
from server.schemas.plain_answers import InfillAnswer, InfillPiece


async def _check(body: InfillRequest, request: EndpointRequest) -> None:
    check_infill(body, request.model)


async def _prepare(body: InfillRequest, request: EndpointRequest) -> GenerationWork:
    async with request.preparing():
        params = await infill_params(body, request.model, request.arrival_s)
    formatter = InfillFormatter(body, request.model.name)
    return GenerationWork(request.model, params, formatter, is_stream=bool(body.stream))


INFILL = Endpoint(
    path="/infill",
    name="create_infill",
    summary="Fill in the code between two pieces of code, as a whole or as a stream.",
    tag="llama-server's",
    bodies=(InfillRequest,),
    capability=Capability.GENERATES,
    check=_check,
    prepare=_prepare,
    answers={JSON: InfillAnswer, EVENTS: InfillPiece | InfillAnswer},
    example={"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n", "n_predict": 16},
    span_operation="text_completion",
)
ENDPOINTS = (INFILL,)
