"""DummyCheckpoint: a checkpoint without files, whose weights are drawn at random (--load-format dummy)."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from models.checkpoints.base import StoredTensor
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError

_CHUNK = 1 << 20  # numbers drawn at a time, so that the integers take little memory
_MASK = 0xFFFFFFFF
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(slots=True)
class DummyCheckpoint:
    """Weights that depend on a seed and their own names only. They have no tensors: the decoder says what it needs."""

    seed: int
    dtype: torch.dtype
    tensors: dict[str, StoredTensor] = field(default_factory=dict)

    @property
    def description(self) -> str:
        return f"random numbers (--load-format dummy, seed {self.seed})"


def dummy_checkpoint(config: HFConfig, quantization: HFConfig | None, seed: int) -> DummyCheckpoint:
    """Return the checkpoint of a config.json alone. quantization: its quantization_config; None if there is none.

    Raises UnsupportedModelError for codes, which cannot be drawn.
    """
    if quantization is not None:
        raise UnsupportedModelError(
            f"{config.source} describes quantized weights, and --load-format dummy draws plain ones; remove the "
            "quantization_config from a copy of the file, and give --quantization int4, int8 or fp8"
        )
    stated = config.raw("dtype") or config.raw("torch_dtype")
    return DummyCheckpoint(seed, _DTYPES.get(str(stated), torch.bfloat16))


def draw_weights(
    checkpoint: DummyCheckpoint,
    name: str,
    shape: Sequence[int],
    center: float,
    reach: float,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return numbers drawn uniformly from [center - reach, center + reach], as `dtype` on `device`.

    They are the same on every device: a hash of seed, name and index in integers, then one rounding to fp32.
    """
    drawn = torch.empty(math.prod(shape), dtype=dtype, device=device)
    key = int.from_bytes(hashlib.blake2b(f"{checkpoint.seed}/{name}".encode(), digest_size=8).digest()) >> 2
    for first in range(0, len(drawn), _CHUNK):
        chunk = drawn[first : first + _CHUNK]
        bits = _mixed(torch.arange(first, first + len(chunk), dtype=torch.int64, device=device), key)
        unit = bits.sub_(1 << 31).to(torch.float32).mul_(2.0**-31)
        chunk.copy_(unit.mul_(reach).add_(center))
    return drawn.view(*shape)


def _mixed(index: torch.Tensor, key: int) -> torch.Tensor:
    """Hash integers, in place, to 32 bits each: an odd multiple plus the key, and the finalizer of MurmurHash3."""
    bits = index.mul_(0x9E3779B1).add_(key)
    bits ^= bits >> 32  # the key's upper half
    bits &= _MASK
    bits ^= bits >> 16
    bits.mul_(0x85EBCA6B).bitwise_and_(_MASK)
    bits ^= bits >> 13
    bits.mul_(0xC2B2AE35).bitwise_and_(_MASK)
    bits ^= bits >> 16
    return bits
