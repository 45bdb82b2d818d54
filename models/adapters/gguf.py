"""Adapters in GGUF files, in the format of llama.cpp's converter."""

from collections.abc import Sequence
from pathlib import Path

import torch

from models.adapters.stored import StoredAdapter, StoredPair
from models.checkpoints.base import StoredTensor
from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.config.hf_config import quote_value
from models.errors import AdapterError, ModelError

_SUFFIXES = (".lora_a", ".lora_b")
_EMBEDDING = "token_embd.weight"  # its `a` is transposed
_KNOWN_KEYS = ("adapter.type", "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix")


def read_gguf_adapter(path: Path, architectures: Sequence[str]) -> StoredAdapter:
    """Read an adapter in a GGUF file. architectures: the GGUF names that the base model's architecture may have.

    Raises AdapterError, which names the file and the key or tensor.
    """
    try:
        file = GGUFCheckpoint([path])
    except ModelError as error:
        raise AdapterError(str(error)) from None
    _check_metadata(file, architectures)
    alpha = file.metadata.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < float("inf"):
        raise AdapterError(f"{path}: adapter.lora.alpha is {quote_value(alpha)}; it must be a number; convert it again")
    base_model = file.metadata.get("general.base_model.0.name", "")
    return StoredAdapter(
        source=str(path),
        alpha=float(alpha),
        base_model=base_model if isinstance(base_model, str) else "",
        is_gguf=True,
        pairs=tuple(_pairs(file, float(alpha))),
    )


def _check_metadata(file: GGUFCheckpoint, architectures: Sequence[str]) -> None:
    metadata = file.metadata
    for key, value in (("general.type", "adapter"), ("adapter.type", "lora")):
        if (given := metadata.get(key)) != value:
            raise AdapterError(f"{file.path}: {key} is {quote_value(given)}; it must be {value!r} for an adapter")
    if (given := metadata.get("general.architecture")) not in architectures:
        names = " or ".join(map(repr, architectures))
        raise AdapterError(
            f"{file.path} is for the architecture {quote_value(given)}; the model's is {names}; serve the "
            "model that the adapter was trained with"
        )
    for key, value in metadata.items():
        if key.startswith("adapter.") and key not in _KNOWN_KEYS:
            raise AdapterError(f"{file.path}: {key} is {quote_value(value)}, which is not supported")


def _pairs(file: GGUFCheckpoint, alpha: float) -> list[StoredPair]:
    pairs = []
    for name, tensor in file.tensors.items():
        target, suffix = name[: -len(_SUFFIXES[0])], name[-len(_SUFFIXES[0]) :]
        if suffix not in _SUFFIXES:
            raise AdapterError(f"{file.path}: tensor {name!r} is not supported, and no tensor may be left out")
        other = target + _SUFFIXES[1 - _SUFFIXES.index(suffix)]
        if other not in file.tensors:
            raise AdapterError(f"{file.path}: {name!r} lacks its {other!r}; convert the adapter again")
        if suffix == _SUFFIXES[0]:
            pairs.append(_pair(target, tensor, file.tensors[other], alpha))
    return pairs


def _pair(target: str, a_tensor: StoredTensor, b_tensor: StoredTensor, alpha: float) -> StoredPair:
    a, b = _read(a_tensor), _read(b_tensor)
    if target == _EMBEDDING:
        a = a.t().contiguous()
    if a.dim() != 2 or b.dim() != 2 or len(a) != b.shape[1] or not len(a):
        raise AdapterError(
            f"{a_tensor.file}: {a_tensor.name!r} has shape {list(a_tensor.shape)} and {b_tensor.name!r} "
            f"{list(b_tensor.shape)}, which do not form a pair of one rank"
        )
    scale = alpha / len(a) if alpha else 1.0
    return StoredPair(a_tensor.name, target, a, b, scale, is_look_up=target == _EMBEDDING)


def _read(tensor: StoredTensor) -> torch.Tensor:
    """Copy a tensor into memory, dequantized to fp32 if the file has it quantized."""
    assert tensor.read is not None
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16}.get(tensor.format, torch.float32)
    try:
        values = tensor.read(dtype).clone()
    except ModelError as error:
        raise AdapterError(str(error)) from None
    if values.dim() != 2:
        raise AdapterError(
            f"{tensor.file}: {tensor.name!r} has shape {list(tensor.shape)}; adapters of norms and of experts are not "
            "supported"
        )
    if values.numel() and not bool(torch.stack(values.aminmax()).isfinite().all()):
        raise AdapterError(f"{tensor.file}: {tensor.name!r} has numbers that are not finite; convert it again")
    return values
