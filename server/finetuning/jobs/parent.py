"""read_shape: rank and scale of an adapter that training is to go on with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from server.finetuning.adapter_files import CONFIG_FILE


@dataclass(frozen=True, slots=True)
class Shape:
    """layers: kinds of layers that the adapter has pairs of; empty where that is not known."""

    rank: int
    alpha: float
    layers: frozenset[str] = frozenset()


class _Config(msgspec.Struct):
    """Of PEFT's, what the trainer needs."""

    r: int
    lora_alpha: float
    target_modules: Any = None  # a list of names or of their ends; or a pattern, or nothing


def read_shape(folder: Path) -> Shape:
    """Of the adapter in a folder; the trainer checks the rest of it. Raises InvalidRequest. Blocks."""
    try:
        config = msgspec.json.decode((folder / CONFIG_FILE).read_bytes(), type=_Config)
    except (OSError, msgspec.DecodeError):
        raise InvalidRequest(
            "training cannot go on with this adapter, which is not a folder in PEFT's format; name its base model",
            param="model",
        ) from None
    names = config.target_modules if isinstance(config.target_modules, list) else []
    kinds = frozenset(name.rpartition(".")[2] for name in names if isinstance(name, str))
    return Shape(config.r, config.lora_alpha, kinds)
