"""Checks of a pooling request, except of its texts."""

from engine.errors import InvalidRequest
from engine.protocol import PoolingInfo, PoolingParams, PoolingTask
from server.schemas.parameters import POOLING_PARAMETERS, ignored_parameters, refuse_unknown
from server.schemas.pooling import PoolingFields
from server.served.model import ServedModel


def check_pooling_fields(body: PoolingFields, model: ServedModel) -> list[str]:
    """Check the body's fields, and return the names of ignored ones. Needs no engine. Raises InvalidRequest."""
    body.check()
    is_strict = model.config.strict_parameters
    extra = {**body.extra, "cache_salt": body.cache_salt}
    ignored = ignored_parameters(extra, strict=is_strict, table=POOLING_PARAMETERS)
    if is_strict:
        refuse_unknown(body.passed_on)
    if body.priority and not model.honors_priority:
        ignored.append("priority")
    return ignored


def pooling_info(model: ServedModel) -> PoolingInfo:
    """Return the model's pooling tasks and limits. Raises InvalidRequest for a model that generates text."""
    info = (model.info or model.client.info).pooling
    if info is None:
        raise InvalidRequest(
            f"the model {model.name!r} generates text, and this route is for models that compute embeddings or scores; "
            "/v1/models tells what each can do (headrace.capabilities)",
            param="model",
            code="model_not_suited",
        )
    return info


def checked_params(
    model: ServedModel, task: PoolingTask, *, dimensions: int | None = None, normalize: bool | None = None
) -> PoolingParams:
    """Return the PoolingParams of a task. Raises InvalidRequest if the model does not support them."""
    params = PoolingParams(task=task, dimensions=dimensions, normalize=normalize)
    pooling_info(model).check(params)
    return params
