"""Adapters in PEFT's format: a folder with adapter_config.json and adapter_model.safetensors."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch

from models.adapters.peft_config import PeftConfig, read_peft_config
from models.adapters.stored import StoredAdapter, StoredPair, StoredWeight
from models.checkpoints.base import StoredTensor
from models.checkpoints.pickles import find_pickle
from models.checkpoints.safetensors import tensors_of_file
from models.errors import AdapterError, CheckpointError

WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Names of parts by the end of a tensor's name, after the module's name.
_PARTS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "bias",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_embedding_A": "look_up_a",
    "lora_embedding_B": "look_up_b",
    "base_layer.weight": "copy",
}
_PART = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(map(re.escape, sorted(_PARTS, key=len, reverse=True)))})")


def read_peft(folder: Path) -> StoredAdapter:
    """Read a PEFT adapter. Raises AdapterError, which names the file and the field or tensor; never opens a pickle."""
    config = read_peft_config(folder)
    path = folder / WEIGHTS_NAME
    if not path.is_file():
        reason = f"it has no {WEIGHTS_NAME}; save the adapter again"
        if (pickle := find_pickle(folder)) is not None:
            reason = (
                f"its weights are in {pickle.name}, a pickle, which can run code when it is opened; save the adapter "
                f"again with PEFT's save_pretrained, which writes {WEIGHTS_NAME}"
            )
        raise AdapterError(f"{folder} is not a readable adapter: {reason}")
    try:
        tensors = list(tensors_of_file(path))
    except CheckpointError as error:
        raise AdapterError(str(error)) from None
    modules: dict[str, dict[str, StoredTensor]] = defaultdict(dict)  # each module's tensors by part
    weights = []
    for tensor in tensors:
        inner = tensor.name.removeprefix(_PREFIX)
        if (match := _PART.fullmatch(inner)) is not None:
            modules[match["module"]][_PARTS[match["part"]]] = tensor
        elif inner.endswith(".weight"):  # a whole tensor; `place_adapter` decides whether it is supported
            weights.append(StoredWeight(tensor.name, inner, _read(tensor)))
        else:
            raise AdapterError(f"{path}: tensor {tensor.name!r} is not supported, and no tensor may be left out")
    pairs, copies = [], []
    for module, parts in modules.items():
        if (copy := parts.pop("copy", None)) is not None:
            copies.append(StoredWeight(copy.name, f"{module}.weight", _read(copy), is_copy=True))
        if parts:
            pairs.append(_pair(module, parts, config))
    return StoredAdapter(
        source=str(path),
        alpha=config.alpha,
        base_model=config.base_model,
        is_gguf=False,
        pairs=tuple(pairs),
        weights=(*weights, *copies),
    )


def _pair(module: str, parts: Mapping[str, StoredTensor], config: PeftConfig) -> StoredPair:
    is_look_up = "look_up_a" in parts or "look_up_b" in parts
    names = ("look_up_a", "look_up_b") if is_look_up else ("a", "b")
    first = next(iter(parts.values()))
    if any(name not in parts for name in names):
        missing = {"a": "lora_A", "b": "lora_B", "look_up_a": "lora_embedding_A", "look_up_b": "lora_embedding_B"}
        lacking = ", ".join(missing[name] for name in names if name not in parts)
        raise AdapterError(f"{first.file}: {first.name!r} lacks its {lacking}; save the adapter again")
    if is_look_up and len(parts) > 2:
        other = next(tensor.name for name, tensor in parts.items() if name not in names)
        raise AdapterError(f"{first.file}: tensor {other!r} of an embedding is not supported; train it without DoRA")
    a, b = (_read(parts[name]) for name in names)
    expected = config.rank_of(module)
    if a.dim() != 2 or b.dim() != 2 or not len(a) == b.shape[1] == expected:
        raise AdapterError(
            f"{first.file}: {parts[names[0]].name!r} has shape {list(a.shape)} and {parts[names[1]].name!r} "
            f"{list(b.shape)}; {config.source} states rank {expected}; save the adapter again"
        )
    return StoredPair(
        name=parts[names[0]].name,
        target=f"{module}.weight",
        a=a,
        b=b,
        scale=config.scale_of(module),
        bias=_vector(parts.get("bias")),
        magnitude=_vector(parts.get("magnitude")),
        is_look_up=is_look_up,
    )


def _vector(tensor: StoredTensor | None) -> torch.Tensor | None:
    return None if tensor is None else _read(tensor).flatten()


def _read(tensor: StoredTensor) -> torch.Tensor:
    """Copy a tensor into memory, in the file's dtype, since the file may be replaced while the adapter is served."""
    if tensor.read is None or tensor.read_stored is None:
        raise AdapterError(f"{tensor.file}: {tensor.name!r} is stored as {tensor.format}, which is not supported")
    values = tensor.read_stored().clone()
    if values.dtype == torch.float64:
        values = values.to(torch.float32)
    if values.numel() and not bool(torch.stack(values.aminmax()).isfinite().all()):
        raise AdapterError(f"{tensor.file}: {tensor.name!r} has numbers that are not finite; train or fetch it again")
    return values
