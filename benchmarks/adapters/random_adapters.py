"""Random LoRA adapters of a model, in files that headrace and its rivals read."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

_IN_GGUF = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_IN_FOLDERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_STRENGTH = 0.01

Pair = tuple[np.ndarray, np.ndarray]


def write_adapter(model: Path, place: Path, rank: int, seed: int) -> Path:
    """Write an adapter that changes all matrices of attention and feed-forward, in fp16, and return its path.

    It is a GGUF file for a GGUF model, a PEFT folder for a folder of safetensors. place: its path without a suffix.
    """
    generator = np.random.default_rng(seed)
    if model.is_dir():
        return _write_peft(model, place, rank, generator)
    return _write_gguf(model, place.with_suffix(".gguf"), rank, generator)


def _write_gguf(model: Path, path: Path, rank: int, generator: np.random.Generator) -> Path:
    architecture, matrices = _gguf_matrices(model)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for name, rows, columns in matrices:
        a, b = _pair(rows, columns, rank, generator)
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@functools.cache
def _gguf_matrices(model: Path) -> tuple[str, list[tuple[str, int, int]]]:
    """Return the architecture, and (tensor, rows, columns) of the matrices that the adapter changes.

    Cached, since reading the vocabulary takes seconds, and a comparison writes several adapters of a model.
    """
    reader = gguf.GGUFReader(model)
    changed = tuple(f".{name}.weight" for name in _IN_GGUF)
    tensors = [tensor for tensor in reader.tensors if tensor.name.endswith(changed)]
    matrices = [(tensor.name, int(tensor.shape[1]), int(tensor.shape[0])) for tensor in tensors]
    return reader.fields["general.architecture"].contents(), matrices


def _write_peft(model: Path, folder: Path, rank: int, generator: np.random.Generator) -> Path:
    tensors = {}
    for module, rows, columns in _matrices(model):
        a, b = _pair(rows, columns, rank, generator)
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none"}
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": list(_IN_FOLDERS)}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _matrices(model: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (module, rows, columns) of the matrices that the adapter changes."""
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                module = name.removesuffix(".weight")
                if module != name and module.endswith(_IN_FOLDERS):
                    rows, columns = tensors.get_slice(name).get_shape()
                    yield module, rows, columns


def _pair(rows: int, columns: int, rank: int, generator: np.random.Generator) -> Pair:
    a = generator.standard_normal((rank, columns)) * columns**-0.5
    b = generator.standard_normal((rows, rank)) * _STRENGTH
    return a.astype(np.float16), b.astype(np.float16)
