"""Checkpoints in safetensors: one file, or shards listed by an index; never a pickle."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from models.checkpoints.base import StoredTensor
from models.checkpoints.pickles import NO_PICKLES, find_pickle
from models.errors import CheckpointError, UnsupportedModelError, shorten_error

_SINGLE = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 16 << 20  # some hundred thousand tensors; the largest models have fewer in a file
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Formats of parts of quantized modules, which mean nothing without the module's other parts.
_CODE_BYTES = {"U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I32": 4, "I64": 8}


class SafetensorsCheckpoint:
    """The tensors of a folder in Hugging Face layout."""

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, StoredTensor] = {}
        index = _read_index(folder)
        for path in sorted(set(index.values())) if index else [_single_file(folder)]:
            for tensor in tensors_of_file(path):
                if tensor.name in self.tensors:
                    other = self.tensors[tensor.name].file
                    raise CheckpointError(f"tensor {tensor.name!r} is in {other} and in {path}; fetch them again")
                self.tensors[tensor.name] = tensor
        for name, path in index.items():
            if name not in self.tensors:
                raise CheckpointError(
                    f"{path} lacks tensor {name!r}, which {folder / INDEX_NAME} lists; fetch it again"
                )
        if not any(tensor.format in _DTYPES for tensor in self.tensors.values()):
            raise CheckpointError(f"{folder} has no tensors of {', '.join(_DTYPES)}; fetch the checkpoint again")
        self.dtype = plain_dtype(self.tensors.values())


def plain_dtype(tensors: Iterable[StoredTensor]) -> torch.dtype:
    """Return the dtype that most bytes of the unquantized tensors have; bfloat16 if there are none."""
    bytes_of = Counter[torch.dtype]()
    for tensor in tensors:
        if tensor.format in _DTYPES:
            bytes_of[_DTYPES[tensor.format]] += tensor.num_bytes
    return bytes_of.most_common(1)[0][0] if bytes_of else torch.bfloat16


def _single_file(folder: Path) -> Path:
    path = folder / _SINGLE
    if path.exists():
        return path
    others = sorted(folder.glob("*.safetensors"))
    if len(others) == 1:
        return others[0]
    if others:
        names = ", ".join(other.name for other in others)
        raise CheckpointError(f"{folder} has {names} but neither {_SINGLE} nor {INDEX_NAME}; fetch the index")
    if pickle := find_pickle(folder):
        raise UnsupportedModelError(f"{folder} has its weights in {pickle.name}, {NO_PICKLES}")
    raise CheckpointError(f"{folder} has no {_SINGLE} and no {INDEX_NAME}; fetch the checkpoint again")


def _read_index(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor, as the index lists it; empty without an index, or if a single file has all.

    Raises CheckpointError if the index is damaged or lists files that do not exist.
    """
    path = folder / INDEX_NAME
    if not path.exists() or (folder / _SINGLE).exists():  # the single file comes first, as in transformers
        return {}
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        entries = [(str(name), str(file)) for name, file in weight_map.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path} has no weight_map; fetch it again") from None
    if not entries:
        raise CheckpointError(f"{path} lists no tensors; fetch it again")
    for _, file in entries:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{path} lists {file!r}, which is not a safetensors file next to it; fetch it again")
        if not (folder / file).exists():
            raise CheckpointError(f"{folder / file} is listed by {path} and does not exist; fetch it again")
    return {name: folder / file for name, file in entries}


def tensors_of_file(path: Path) -> Iterator[StoredTensor]:
    """Yield the tensors of one file, in its order. Raises CheckpointError if it is damaged or cannot be read."""
    _check_header_size(path)
    try:
        file = safe_open(path, framework="pt")  # checks the header against itself and against the file's size
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({shorten_error(error)}); fetch it again") from None
    for name in file.offset_keys():
        described = file.get_slice(name)
        yield _described(
            name, tuple(described.get_shape()), described.get_dtype(), path, partial(file.get_tensor, name)
        )


def _check_header_size(path: Path) -> None:
    """Raise CheckpointError for a header that safetensors would turn into gigabytes of names and shapes."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; fetch it again") from None
    if size > _MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path} claims a header of {size:,} bytes; no model has more than {_MAX_HEADER_BYTES:,}: the file is "
            "damaged; fetch it again"
        )


def _described(
    name: str, shape: tuple[int, ...], stored_as: str, path: Path, read_stored: Callable[[], torch.Tensor]
) -> StoredTensor:
    """Return a tensor's description. read_stored: returns the tensor memory-mapped, so that reading a part costs only
    that part."""
    stored_dtype = _DTYPES.get(stored_as)
    item_bytes = _CODE_BYTES.get(stored_as, 0) if stored_dtype is None else stored_dtype.itemsize

    def read(dtype: torch.dtype) -> torch.Tensor:
        return read_stored().to(dtype)

    def part(index: int) -> StoredTensor:
        return _described(f"{name}[{index}]", shape[1:], stored_as, path, lambda: read_stored()[index])

    return StoredTensor(
        name,
        shape,
        stored_as,
        math.prod(shape) * item_bytes,
        path,
        None if stored_dtype is None else read,
        part=part if shape else None,
        read_stored=read_stored,
    )
