"""Reading of an adapter's files into an Adapter for a loaded model."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from models.adapters.gguf import read_gguf_adapter
from models.adapters.peft import read_peft
from models.adapters.place import num_bytes_of, place_adapter, targets_of
from models.decoder import Decoder
from models.errors import AdapterError
from models.families.registry import ARCHITECTURES
from models.linear.adapters.adapter import Adapter, LayerAdapter
from models.loaded_model import AdapterTargets, LoadedModel

_DIGEST_BYTES = 32


def read_adapter(path: Path, model: LoadedModel) -> Adapter:
    """Read the adapter in a PEFT folder or a GGUF file, for `model`.

    No tensor that would change results is left out: raises AdapterError, which names the file and the tensor or field
    that cannot be read, is not supported or does not fit the model.
    """
    targets = _targets(model, is_gguf=path.suffix == ".gguf")
    if path.is_dir():
        stored = read_peft(path)
    elif path.suffix == ".gguf":
        if targets is None:
            raise AdapterError(f"{path}: GGUF has no architecture {model.architecture}; use a PEFT folder")
        entry = ARCHITECTURES[model.architecture]
        entry = ARCHITECTURES[entry.gguf_as] if entry.gguf_as else entry
        stored = read_gguf_adapter(path, entry.gguf_names)
    else:
        raise AdapterError(
            f"{path} is not an adapter: give a folder with adapter_config.json and adapter_model.safetensors, or a "
            ".gguf file"
        )
    assert targets is not None
    layers = place_adapter(stored, targets)
    if not layers:
        raise AdapterError(f"{stored.source} has no tensors that change this model; save it again")
    return Adapter(
        digest=_digest(layers),
        rank=max(layer.rank for layer in layers.values()),
        alpha=stored.alpha,
        targets=targets_of(stored),
        num_bytes=num_bytes_of(layers),
        base_model=stored.base_model,
        layers=layers,
    )


def _targets(model: LoadedModel, *, is_gguf: bool) -> AdapterTargets | None:
    """Return the layers that adapters may change, with the rules for their names; None if GGUF has no such names."""
    family, decoder = model.family, model.decoder
    if family is None or not isinstance(decoder, Decoder):
        return None if is_gguf else model.adapter_targets
    rules = family.gguf_names if is_gguf else family.names
    modules = dict(decoder.named_modules(remove_duplicate=False))
    return None if rules is None else AdapterTargets(rules, modules, decoder.spec)


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
