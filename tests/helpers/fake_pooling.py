"""What the fake of a pooling engine says of itself, and what it makes of texts."""

import struct
from collections.abc import Callable

from engine.protocol import FinishReason, PoolingInfo, PoolingOutput, PoolingRequest, PoolingTask


def pooling_info(**changes: object) -> PoolingInfo:
    fields: dict[str, object] = {
        "tasks": [PoolingTask.EMBED, PoolingTask.TOKEN_EMBED],
        "dimensions": 4,
        "max_input_tokens": 200,
        "normalize": True,
        "pooling": "mean",
    }
    return PoolingInfo(**{**fields, **changes})  # type: ignore[arg-type]


# What a text gets: rows of numbers, or an output that says why it got none, or an error for the whole call.
Pooled = list[list[float]] | PoolingOutput | BaseException
PoolScript = Callable[[PoolingRequest], Pooled]


def pools_prompts(request: PoolingRequest) -> list[list[float]]:
    """Of each text (a token, for TOKEN_EMBED) the same four numbers for the same ids, cut to `dimensions`; of scores,
    the number of tokens."""
    params = request.params
    if params.task in (PoolingTask.SCORE, PoolingTask.CLASSIFY):
        return [[float(len(request.prompt_ids))]]
    texts = [[each] for each in request.prompt_ids] if params.task is PoolingTask.TOKEN_EMBED else [request.prompt_ids]
    return [_vector(ids)[: params.dimensions] for ids in texts]


def _vector(ids: list[int]) -> list[float]:
    return [float(len(ids)), float(sum(ids)), float(ids[0]), float(ids[-1])]


def pooling_output(request: PoolingRequest, rows: list[list[float]]) -> PoolingOutput:
    """As an engine sends them: one row is a vector, unless they are of tokens."""
    values = [each for row in rows for each in row]
    is_matrix = request.params.task is PoolingTask.TOKEN_EMBED
    return PoolingOutput(
        id=request.id,
        finish_reason=FinishReason.STOP,
        values=struct.pack(f"<{len(values)}f", *values),
        shape=(len(rows), len(rows[0])) if is_matrix else (len(values),),
        num_tokens=len(request.prompt_ids),
        queue_s=0.25,
    )
