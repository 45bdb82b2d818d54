"""Files of an adapter folder in PEFT's format, and the adapter's rank, alpha and layers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import InvalidRequest

CONFIG_FILE = "adapter_config.json"  # the trainer writes it last: a folder without it is not an adapter
ADAPTER_FILES = (CONFIG_FILE, "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """The shape of a LoRA adapter. layers: kinds of layers that it adapts; empty if unknown."""

    rank: int
    alpha: float
    layers: frozenset[str] = frozenset()


class _Config(msgspec.Struct):
    """The fields of PEFT's adapter_config.json that the trainer needs."""

    r: int
    lora_alpha: float
    target_modules: Any = None  # a list of names or of their ends; or a pattern, or nothing


def read_shape(folder: Path) -> AdapterShape:
    """Read the shape of an adapter from which training continues. Raises InvalidRequest if the folder is not in PEFT's
    format. Blocks."""
    try:
        config = msgspec.json.decode((folder / CONFIG_FILE).read_bytes(), type=_Config)
    except (OSError, msgspec.DecodeError):
        raise InvalidRequest(
            "training cannot continue from this adapter, which is not a folder in PEFT's format; name its base model",
            param="model",
        ) from None
    names = config.target_modules if isinstance(config.target_modules, list) else []
    kinds = frozenset(name.rpartition(".")[2] for name in names if isinstance(name, str))
    return AdapterShape(config.r, config.lora_alpha, kinds)
