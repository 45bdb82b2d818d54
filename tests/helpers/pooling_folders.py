"""Folders of sentence-transformers models, written by hand: the modules beside a checkpoint of transformers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

_TYPES = "sentence_transformers.models."


def write_modules(root: Path, kinds: Sequence[str] = ("Transformer", "Pooling", "Normalize")) -> None:
    """modules.json, each module with a folder of its own but the first."""
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_{kind}" if index else "", "type": _TYPES + kind}
        for index, kind in enumerate(kinds)
    ]
    write_json(root / "modules.json", modules)


def write_pooling(root: Path, **modes: object) -> None:
    write_json(root / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, **modes})


def write_dense(root: Path, weight: torch.Tensor, bias: torch.Tensor | None, activation: str, index: int = 2) -> None:
    folder = root / f"{index}_Dense"
    sizes = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": bias is not None}
    write_json(folder / "config.json", {**sizes, "activation_function": f"torch.nn.modules.activation.{activation}"})
    tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
    save_file(tensors, folder / "model.safetensors")


def write_json(path: Path, content: Mapping[str, object] | Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
