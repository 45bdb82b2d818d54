"""What is checked of every request to a pooling model before its texts are looked at."""

from collections.abc import Sequence

from engine.errors import InvalidRequest
from engine.protocol import PoolingInfo, PoolingParams, PoolingTask
from server.keys.caller import current_caller
from server.schemas.parameters import ignored_parameters, refuse_unknown
from server.schemas.pooling import PoolingFields
from server.schemas.pooling_parameters import POOLING_PARAMETERS
from server.served.model import ServedModel

# Where a model goes that does one thing, for clients who ask it for another.
_ROUTES = {
    PoolingTask.EMBED: "/v1/embeddings",
    PoolingTask.TOKEN_EMBED: "/pooling",
    PoolingTask.CLASSIFY: "/classify",
    PoolingTask.SCORE: "/v1/rerank and /v1/score",
}


def check_request(body: PoolingFields, model: ServedModel) -> list[str]:
    """The names of the fields that are ignored.

    Raises EngineUnavailable, RateLimited or InvalidRequest.
    """
    model.check_admission()
    if (account := current_caller().account) is not None:
        account.check_open()
    return check_fields(body, model)


def check_fields(body: PoolingFields, model: ServedModel) -> list[str]:
    """The names of the fields that are ignored, by what needs no engine. Raises InvalidRequest."""
    body.check()
    is_strict = model.config.strict_parameters
    extra = {**body.extra, "cache_salt": body.cache_salt}
    ignored = ignored_parameters(extra, strict=is_strict, table=POOLING_PARAMETERS)
    if is_strict:
        refuse_unknown(body.passed_on)
    if body.priority and not model.honors_priority:
        ignored.append("priority")
    return ignored


async def check_early(_request: object, body: PoolingFields, model: ServedModel) -> None:
    """Raise InvalidRequest for what is wrong whatever the model says of itself, before it is loaded."""
    check_fields(body, model)
    if model.info is not None:
        pooling_info(model)


def pooling_info(model: ServedModel) -> PoolingInfo:
    """What the model can do. Raises InvalidRequest of one that generates text."""
    info = (model.info or model.client.info).pooling
    if info is None:
        raise InvalidRequest(
            f"the model {model.name!r} generates text, and this route is for models that compute embeddings or scores; "
            "/v1/models tells what each can do (headrace.capabilities)",
            param="model",
            code="model_not_suited",
        )
    return info


def chosen_task(model: ServedModel, wanted: Sequence[PoolingTask]) -> PoolingTask:
    """The first of the wanted that the model can do. Raises InvalidRequest, which tells where it can be asked."""
    info = pooling_info(model)
    for task in wanted:
        if task in info.tasks:
            return task
    can = ", ".join(f"{task.value} ({_ROUTES[task]})" for task in info.tasks)
    raise InvalidRequest(
        f"the model {model.name!r} cannot {' or '.join(task.value for task in wanted)}; it can {can}",
        param="model",
        code="model_not_suited",
    )


def checked_params(
    model: ServedModel, task: PoolingTask, *, dimensions: int | None = None, normalize: bool | None = None
) -> PoolingParams:
    """What is asked of the model. Raises InvalidRequest if it cannot do that."""
    params = PoolingParams(task=task, dimensions=dimensions, normalize=normalize)
    pooling_info(model).check(params)
    return params
