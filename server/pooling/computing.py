"""pool: computes the inputs of one request in the engine, and counts them."""

import uuid
from collections.abc import Sequence

from engine.protocol import FinishReason, PoolingOutput, PoolingRequest
from server.generation.outcomes import failure_of, metered
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
    with metered(model, meter):
        model.client.check_capacity(1, inputs.num_tokens, inputs.terms.service_class)
        async with inputs.terms.in_time():
            meter.begin()
            outputs = await model.client.pool(_requests(inputs))
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
        if output.finish_reason is not FinishReason.STOP:
            raise failure_of(output, path, inputs.terms, model)
