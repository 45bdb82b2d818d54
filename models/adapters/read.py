"""Reading of an adapter's files into an Adapter for a loaded model."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from models.adapters.gguf import read_gguf_adapter
from models.adapters.peft import read_peft
from models.adapters.place import num_bytes_of, place_adapter, targets_of
from models.decoder import Decoder
from models.errors import AdapterError, UnsupportedModelError
from models.families.registry import ARCHITECTURES
from models.linear.adapters.adapter import Adapter, LayerAdapter
from models.loaded_model import LoadedModel

_DIGEST_BYTES = 32


def read_adapter(path: Path, model: LoadedModel) -> Adapter:
    """Read the adapter in a PEFT folder or a GGUF file, for `model`.

    No tensor is left out: raises AdapterError, which names the file and the tensor or field that cannot be read, is not
    supported or does not fit the model. Raises UnsupportedModelError for a model that cannot have adapters.
    """
    family = model.family
    if family is None or not isinstance(model.decoder, Decoder):
        raise UnsupportedModelError("adapters are supported by headrace's own families only; serve a merged checkpoint")
    if path.is_dir():
        stored, rules = read_peft(path), family.names
    elif path.suffix == ".gguf":
        if family.gguf_names is None:
            raise AdapterError(f"{path}: GGUF has no architecture {model.architecture}; use a PEFT folder")
        entry = ARCHITECTURES[model.architecture]
        gguf = entry.gguf or (ARCHITECTURES[entry.gguf_as].gguf if entry.gguf_as else None)
        stored, rules = read_gguf_adapter(path, gguf), family.gguf_names
    else:
        raise AdapterError(
            f"{path} is not an adapter: give a folder with adapter_config.json and adapter_model.safetensors, or a "
            ".gguf file"
        )
    layers = place_adapter(stored, model.decoder, rules)
    if not layers:
        raise AdapterError(f"{stored.source} has no tensors of an adapter; save it again")
    return Adapter(
        digest=_digest(layers),
        rank=max(layer.rank for layer in layers.values()),
        alpha=stored.alpha,
        targets=targets_of(stored),
        num_bytes=num_bytes_of(layers),
        base_model=stored.base_model,
        layers=layers,
    )


def _digest(layers: Mapping[str, LayerAdapter]) -> bytes:
    """Return a hash of the values in the file, without values computed from them, which might round differently."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"headrace-lora")
    for name, layer in sorted(layers.items()):
        digest.update(f"{name} {len(layer.pairs)} {layer.weight is not None}\n".encode())
        for pair in layer.pairs:
            has = (pair.bias is not None, pair.magnitude is not None)
            digest.update(f"{pair.first} {pair.scale!r} {has}\n".encode())
        for tensor in layer.tensors():
            digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()
