"""Adapters in PEFT's format: adapter_config.json and adapter_model.safetensors in a folder."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.adapters.peft import WEIGHTS_NAME
from models.adapters.peft_config import CONFIG_NAME, read_peft_config
from models.errors import ModelError
from models.families.module_names import kind_of_linear
from models.training.lora import Lora
from models.training.tensor_file import tensor_file_parts

_PREFIX = "base_model.model."
_MULTIMODAL = "language_model."  # in names of multimodal models


def save_adapter(folder: Path, lora: Lora, base: str) -> None:
    """Write an adapter folder that PEFT loads, complete or not at all. The folder may exist.

    base: the base model's name, for loaders of the adapter. Raises OSError.
    """
    tensors: dict[str, torch.Tensor] = {}
    targets = set()
    for pair in lora.matrices():
        tensors[f"{_PREFIX}{pair.name}.lora_A.weight"] = pair.a
        tensors[f"{_PREFIX}{pair.name}.lora_B.weight"] = pair.b
        # By the last part of a name, PEFT would take a dense layer's gate_proj for the experts' in other layers, and a
        # language model's q_proj for the vision model's.
        is_whole = lora.has_experts or _MULTIMODAL in pair.name
        targets.add(pair.name if is_whole else kind_of_linear(pair.name))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.shape.rank,
        "lora_alpha": lora.shape.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
        "fan_in_fan_out": lora.is_transposed,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / WEIGHTS_NAME, tensor_file_parts(tensors, {"format": "pt"}))
    text = json.dumps(config, indent=2) + "\n"
    _write(folder / CONFIG_NAME, [text.encode()])  # last: a folder without it is not an adapter


def load_pairs(folder: Path, lora: Lora) -> None:
    """Initialize `lora` from a folder that `save_adapter` wrote.

    Raises ModelError if rank or alpha differ, the folder has pairs that `lora` has not, or it is damaged.
    """
    config = read_peft_config(folder)
    fields = {
        "use_rslora": config.is_rank_stabilized,
        "rank_pattern": config.rank_patterns,
        "alpha_pattern": config.alpha_patterns,
    }
    for name, value in fields.items():
        if value:
            raise ModelError(
                f"{config.source}: {name} is set, and training cannot continue from such an adapter; give an adapter "
                "with the same rank and scale in all layers"
            )
    if (config.rank, config.alpha) != (lora.shape.rank, lora.shape.alpha):
        raise ModelError(
            f"the adapter in {folder} has rank {config.rank} and alpha {config.alpha:g}; continue with --lora-rank "
            f"{config.rank} --lora-alpha {config.alpha:g} instead of {lora.shape.rank} and {lora.shape.alpha:g}"
        )
    try:
        tensors = load_file(folder / WEIGHTS_NAME)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder} has no adapter from which training can continue: {error}") from error
    for name, (a, b) in _pairs(tensors, folder).items():
        lora.set_matrices(name, a.to(torch.float32), b.to(torch.float32))


def _pairs(tensors: Mapping[str, torch.Tensor], folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    pairs = {}
    for key, tensor in tensors.items():
        name, part, _ = key.removeprefix(_PREFIX).partition(".lora_A.weight")
        partner = key.replace(".lora_A.", ".lora_B.")
        if not part:
            if not key.endswith(".lora_B.weight"):
                raise ModelError(f"{folder}: tensor {key!r} is not part of a pair that can be trained")
            continue
        if partner not in tensors:
            raise ModelError(f"{folder}: {key!r} lacks its lora_B")
        pairs[name] = tensor, tensors[partner]
    return pairs


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
