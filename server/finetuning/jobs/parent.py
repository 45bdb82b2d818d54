"""read_shape: rank and scale of an adapter that training is to go on with."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.errors import InvalidRequest

_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Shape:
    rank: int
    alpha: float


class _Config(msgspec.Struct):
    """Of PEFT's, what the trainer needs."""

    r: int
    lora_alpha: float


def read_shape(folder: Path) -> Shape:
    """Of the adapter in a folder; the trainer checks the rest of it. Raises InvalidRequest. Blocks."""
    try:
        config = msgspec.json.decode((folder / _CONFIG).read_bytes(), type=_Config)
    except (OSError, msgspec.DecodeError):
        raise InvalidRequest(
            "training cannot go on with this adapter, which is not a folder in PEFT's format; name its base model",
            param="model",
        ) from None
    return Shape(config.r, config.lora_alpha)
