"""pool: computes the inputs of one request in the engine, and counts them."""

import uuid
from collections.abc import Sequence

from engine.errors import EngineDied, EngineStopped, EngineUnavailable, InvalidRequest, QueueFull, RequestFailed
from engine.protocol import FinishReason, PoolingOutput, PoolingRequest
from server.errors import AnswerTimeout
from server.generation.terms import waited_too_long
from server.keys.caller import current_caller
from server.metrics.request_record import current_record
from server.pooling.encoding import EncodedInputs
from server.pooling.metering import PoolingMeter
from server.served.model import ServedModel


async def pool(model: ServedModel, inputs: EncodedInputs) -> list[PoolingOutput]:
    """Compute all inputs, and return their outputs in order. Cancellation ends inputs that the engine has not started.

    Raises RateLimited, Shed or EngineUnavailable before anything is computed, and EngineDied, AnswerTimeout,
    QueueTimeout, RequestFailed and InvalidRequest after.
    """
    model.check_engine()  # a drain that started while the inputs were encoded waits for them
    meter = PoolingMeter(model.metrics, current_record(), current_caller().account, inputs)
    model.live.requests.begin(meter)
    try:
        model.client.check_capacity(1, inputs.num_tokens, inputs.terms.service_class)
        async with inputs.terms.in_time():
            meter.begin()
            outputs = await model.client.pool(_requests(inputs))
    except BaseException as error:
        match error:
            case EngineStopped():
                meter.end(FinishReason.ABORT)
            case EngineDied():
                meter.end(FinishReason.ERROR)
            case QueueFull() | EngineUnavailable():
                meter.refuse()
            case AnswerTimeout():
                meter.end(FinishReason.TIMEOUT)
            case _:
                meter.end(FinishReason.ABORT)
        raise
    finally:
        model.live.requests.end(meter)
    meter.take(outputs)
    _check(model, inputs, outputs)
    return outputs


def _requests(inputs: EncodedInputs) -> list[PoolingRequest]:
    group = uuid.uuid4().hex
    return [
        PoolingRequest(
            id=f"{group}-{number}",
            prompt_ids=each.ids,
            token_type_ids=each.type_ids,
            params=inputs.params,
            **inputs.terms.engine_fields(is_first=number == 0),
        )
        for number, each in enumerate(inputs.items)
    ]


def _check(model: ServedModel, inputs: EncodedInputs, outputs: Sequence[PoolingOutput]) -> None:
    """Raise the error of the first input that was not computed."""
    for path, output in zip(inputs.paths, outputs, strict=True):
        match output.finish_reason:
            case FinishReason.STOP:
                continue
            case FinishReason.QUEUE_TIMEOUT:
                raise waited_too_long(inputs.terms, model.client)
            case FinishReason.TIMEOUT:
                raise inputs.terms.out_of_time()
            case FinishReason.ERROR if output.is_refused:
                raise InvalidRequest(f"{path}: {output.error}", param=output.refused_param or path)
            case FinishReason.ABORT:
                raise EngineUnavailable("the server ended this request because it is shutting down")
        raise RequestFailed(f"{path}: {output.error or 'the engine could not compute it'}")
