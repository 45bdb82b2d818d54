"""Vectors and scores in responses: JSON numbers, or base64 of little-endian fp32."""

import base64
import math
import sys
from array import array
from collections.abc import Sequence

import msgspec

from engine.protocol import PoolingOutput
from server.text.workers import TextWorkers

_ENCODE = msgspec.json.Encoder().encode
_NUMBER_SIZE = 2  # numbers are written about twice as fast as characters are tokenized


def floats_of(values: bytes) -> "array[float]":
    numbers = array("f")
    numbers.frombytes(values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


async def values_as_json(
    outputs: Sequence[PoolingOutput], workers: TextWorkers, *, is_base64: bool = False
) -> list[msgspec.Raw]:
    """Return each output's values as JSON.

    Outputs are encoded one by one, so that other threads run in between: one call for all would hold the GIL for tenths
    of a second.
    """
    num_values = sum(len(output.values) for output in outputs) // 4
    write = as_base64 if is_base64 else as_numbers
    size = num_values // (16 if is_base64 else _NUMBER_SIZE)
    return await workers.run_unless_short(lambda: [write(output) for output in outputs], size=size)


def as_numbers(output: PoolingOutput) -> msgspec.Raw:
    """Return the values as a JSON list of numbers, or as a list of lists if the output has rows."""
    numbers = floats_of(output.values)
    if len(output.shape) < 2:
        return msgspec.Raw(_ENCODE(numbers.tolist()))
    width = output.shape[1]
    rows = (_ENCODE(numbers[start : start + width].tolist()) for start in range(0, len(numbers), width))
    return msgspec.Raw(b"[%b]" % b",".join(rows))


def as_base64(output: PoolingOutput) -> msgspec.Raw:
    return msgspec.Raw(b'"%b"' % base64.b64encode(output.values))


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the cosine similarity of two vectors of equal length; 0 if one of them is zero."""
    product = sum(a * b for a, b in zip(first, second, strict=True))
    norms = math.hypot(*first) * math.hypot(*second)
    return max(-1.0, min(1.0, product / norms)) if norms else 0.0
