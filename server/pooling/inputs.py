"""What a body with inputs asks of a pooling model: checked, encoded, and ready for `pool`."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.protocol import PoolingTask
from server.generation.terms import RequestTerms, request_terms
from server.pooling.checks import check_request, checked_params, chosen_task, pooling_info
from server.pooling.encoding import encoded_inputs, paths_of
from server.pooling.limits import RequestLimits
from server.pooling.prompts import is_input_type_ignored
from server.pooling.work import PoolingWork
from server.schemas.parameters import ignored_header
from server.schemas.pooling import InputFields, PoolingFields
from server.served.model import ServedModel


@dataclass(frozen=True, slots=True)
class AskedInputs:
    work: PoolingWork
    headers: dict[str, str]  # of the answer, which list the fields that are ignored


async def asked_inputs(
    body: InputFields,
    model: ServedModel,
    arrival_s: float,
    tasks: Sequence[PoolingTask],
    *,
    dimensions: int | None = None,
    normalize: bool | None = None,
) -> AskedInputs:
    """The first of the tasks that the model can do. Raises as check_request, InvalidRequest and AnswerTimeout; what
    costs little is checked before the inputs are encoded."""
    ignored, terms = checked(body, model, arrival_s)
    params = checked_params(model, chosen_task(model, tasks), dimensions=dimensions, normalize=normalize)
    info = pooling_info(model)
    if is_input_type_ignored(info, body.input_type):
        ignored.append("input_type")
    async with terms.in_time():
        limits = RequestLimits(info.values_per_token(params))
        inputs = await encoded_inputs(body, await model.text_model(), model.client.info, info, limits)
    paths = ["messages"] if body.messages is not None else paths_of("input", len(inputs))
    work = PoolingWork(inputs=inputs, paths=paths, params=params, terms=terms)
    return AskedInputs(work, ignored_header(ignored))


def checked(body: PoolingFields, model: ServedModel, arrival_s: float) -> tuple[list[str], RequestTerms]:
    """The names of the fields that are ignored, and the terms. Raises as check_request."""
    pooling_info(model)
    return check_request(body, model), request_terms(body, model, arrival_s)
