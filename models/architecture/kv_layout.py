"""Layouts of the cache: the tensors in which a layer keeps keys and values, or the state of a recurrence."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.architecture.recurrence import (
    GatedDeltaSpec,
    GeneralizedDeltaSpec,
    LinearUnitSpec,
    OpaqueStateSpec,
    SelectiveScanSpec,
    ShortConvSpec,
    StateSpaceSpec,
    StateSpec,
    TokenShiftSpec,
)

# 8-bit dtypes of codes in a quantized KV cache, with the largest code. A head's key, and its value, has codes and one
# scale. Codes of 4 bits (torch.int4) are two to a byte, and keys have STEP_NUMBERS numbers to a step of their own.
LARGEST_CODES: Mapping[torch.dtype, float] = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
CODE_DTYPES = (*LARGEST_CODES, torch.int4)
STEP_NUMBERS = 8
SCALE_DTYPE = torch.bfloat16
# Names of the dtypes that a KV cache can have besides that of the activations, "auto".
KV_DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "fp8": torch.float8_e4m3fn,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
    "int8": torch.int8,
    "int4": torch.int4,
}


def kv_dtype_name(dtype: torch.dtype) -> str:
    """Return the last name of a KV cache's dtype in KV_DTYPES, or torch's."""
    names = {each: name for name, each in KV_DTYPES.items()}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def code_bytes(size: int, code_dtype: torch.dtype, *, is_key: bool) -> tuple[int, int]:
    """Return the bytes of a head's codes, and of the steps that its codes have beside the scale."""
    if code_dtype != torch.int4:
        return size, 0
    return size // 2, size // (2 * STEP_NUMBERS) if is_key else 0


def scale_slots(size: int) -> int:
    """Return the numbers of SCALE_DTYPE that a head of `size` codes has room for; the first is its scale.

    The room grows with the head, so that layers with heads of different sizes store positions in whole proportions, and
    share blocks of equal bytes (`models/kv/groups.py`).
    """
    return max(1, size // 64)


@dataclass(frozen=True, slots=True)
class CachePart:
    """One tensor of a layer's cache: keys, values, both, or scales of either."""

    name: str
    shape: tuple[int, ...]  # of a tile of slots, or of a state
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of this part for one tile of slots, or for one state."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Layout of a layer's keys and values, defined by the attention back end.

    A slot (block * block_size + offset) holds one position; each part stores `tile` slots together. compute_dtype:
    dtype of the queries, keys and values that the back end takes, whatever dtype the parts have. code_dtype: dtype of
    quantized keys and values, one of CODE_DTYPES; None: they are not quantized.
    """

    parts: tuple[CachePart, ...]
    tile: int
    compute_dtype: torch.dtype
    code_dtype: torch.dtype | None = None

    @property
    def position_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts) // self.tile

    def num_tiles(self, num_blocks: int, block_size: int) -> int:
        """Return the number of tiles that hold all slots of the blocks."""
        return -(-num_blocks * block_size // self.tile)


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Layout of the state that a recurrent layer keeps for a sequence."""

    parts: tuple[CachePart, ...]

    @property
    def state_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)


LayerLayout = KVLayout | StateLayout


def state_layout(spec: StateSpec, dtype: torch.dtype) -> StateLayout:
    """Return the layout of a recurrence's states. dtype: dtype of the model's activations."""
    match spec:
        case OpaqueStateSpec():
            return StateLayout(
                tuple(
                    CachePart(each.name, each.shape, torch.float32 if each.is_fp32 else dtype) for each in spec.tensors
                )
            )
        case GeneralizedDeltaSpec() | TokenShiftSpec():
            # fp32: a row is read as it was, whether or not a chunk ended before it.
            shifted = CachePart("inputs", (1, spec.num_channels), torch.float32)
            if isinstance(spec, TokenShiftSpec):
                return StateLayout((shifted,))
            return StateLayout((shifted, CachePart("matrices", _matrices(spec), torch.float32)))
        case ShortConvSpec() | SelectiveScanSpec() | LinearUnitSpec():
            channels = spec.num_channels
        case _:
            channels = spec.conv_size
    parts: list[CachePart] = []
    if spec.kernel_size is not None:
        parts.append(CachePart("inputs", (spec.kernel_size - 1, channels), dtype))
    if not isinstance(spec, ShortConvSpec):
        parts.append(CachePart("matrices", _matrices(spec), torch.float32))
    return StateLayout(tuple(parts))


def _matrices(
    spec: GatedDeltaSpec | StateSpaceSpec | SelectiveScanSpec | LinearUnitSpec | GeneralizedDeltaSpec,
) -> tuple[int, ...]:
    """Return the shape of a recurrence's matrices. They are fp32, since thousands of small changes add up in them."""
    match spec:
        case GatedDeltaSpec():
            return spec.num_value_heads, spec.key_dim, spec.value_dim
        case StateSpaceSpec():
            return spec.num_heads, spec.state_size, spec.head_dim
        case SelectiveScanSpec():
            return spec.state_size, spec.num_channels
        case LinearUnitSpec():
            return (spec.num_channels,)
        case GeneralizedDeltaSpec():
            return spec.num_heads, spec.head_dim, spec.head_dim
