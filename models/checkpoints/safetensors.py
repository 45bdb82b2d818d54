"""safetensors checkpoints: one file, or shards listed by an index; never a pickle."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from models.checkpoints.base import StoredTensor
from models.errors import CheckpointError, UnsupportedModelError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class SafetensorsCheckpoint:
    """The tensors of a folder in Hugging Face layout."""

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        bytes_of: Counter[torch.dtype] = Counter()
        index = _read_index(folder)
        for path in sorted(set(index.values())) if index else [_single_file(folder)]:
            for tensor, dtype in _tensors_of(path):
                if tensor.name in self.tensors:
                    other = self.tensors[tensor.name].file
                    raise CheckpointError(f"tensor {tensor.name!r} is in {other} and in {path}; fetch them again")
                self.tensors[tensor.name] = tensor
                if dtype is not None:
                    bytes_of[dtype] += tensor.num_bytes
        for name, path in index.items():
            if name not in self.tensors:
                raise CheckpointError(f"{path} lacks tensor {name!r}, which {folder / _INDEX} promises; fetch it again")
        if not bytes_of:
            raise CheckpointError(f"{folder} holds no tensors of {', '.join(_DTYPES)}; fetch the checkpoint again")
        self.dtype = bytes_of.most_common(1)[0][0]


def _single_file(folder: Path) -> Path:
    path = folder / _SINGLE
    if path.exists():
        return path
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others[0]
    if others:
        names = ", ".join(other.name for other in others)
        raise CheckpointError(f"{folder} has {names} but neither {_SINGLE} nor {_INDEX}; fetch the index")
    pickles = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickles:
        raise UnsupportedModelError(
            f"{folder} has its weights in {pickles[0].name}, a pickle, which can run code when it is opened; "
            "use a safetensors version of the model, or convert it with transformers' save_pretrained"
        )
    raise CheckpointError(f"{folder} has no {_SINGLE} and no {_INDEX}; fetch the checkpoint again")


def _read_index(folder: Path) -> dict[str, Path]:
    """Tensor name -> file, from the index; empty if there is none, or one file that holds all."""
    path = folder / _INDEX
    if not path.exists() or (folder / _SINGLE).exists():  # the single file comes first, as in transformers
        return {}
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        entries = [(str(name), str(file)) for name, file in weight_map.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} holds no weight_map; fetch it again") from None
    if not entries:
        raise CheckpointError(f"{path} lists no tensors; fetch it again")
    for _, file in entries:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{path} lists {file!r}, which is no safetensors file beside it; fetch it again")
        if not (folder / file).exists():
            raise CheckpointError(f"{folder / file} is listed by {path} and does not exist; fetch it again")
    return {name: folder / file for name, file in entries}


def _tensors_of(path: Path) -> Iterator[tuple[StoredTensor, torch.dtype | None]]:
    """Each tensor, and its dtype if that is one of weights."""
    try:
        file = safe_open(path, framework="pt")  # holds the header against itself and against the file's size
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); fetch it again") from None
    for name in file.offset_keys():
        described = file.get_slice(name)
        stored_as, shape = described.get_dtype(), tuple(described.get_shape())
        dtype = _DTYPES.get(stored_as)
        num_bytes = 0 if dtype is None else math.prod(shape) * dtype.itemsize
        read = _reader(file, name) if dtype else None
        part = partial(_part, file, name, (stored_as, num_bytes, path, dtype)) if shape else None
        yield StoredTensor(name, shape, stored_as, num_bytes, path, read, part=part), dtype


def _reader(file: Any, name: str) -> Callable[[torch.dtype], torch.Tensor]:
    def read(dtype: torch.dtype) -> torch.Tensor:
        return file.get_tensor(name).to(dtype)

    return read


def _part(file: Any, name: str, stored: tuple[str, int, Path, torch.dtype | None], index: int) -> StoredTensor:
    stored_as, num_bytes, path, dtype = stored
    count, *shape = file.get_slice(name).get_shape()

    def read(wanted: torch.dtype) -> torch.Tensor:
        return file.get_slice(name)[index].to(wanted)

    return StoredTensor(f"{name}[{index}]", tuple(shape), stored_as, num_bytes // count, path, read if dtype else None)
