"""The interface of checkpoint readers: named tensors, described before any of them is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from models.quant.tensor import QuantKind, QuantTensor


@dataclass(frozen=True, slots=True)
class StoredQuant:
    """A quantized matrix in a file: its kind, from the headers alone, and the function that reads it."""

    kind: QuantKind
    read: Callable[[], QuantTensor]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file; its data is read only by the `read` functions and `quantized`.

    read(dtype): the tensor, dequantized. None for formats that are not weights by themselves: integers, masks, codes
    whose scales are other tensors.
    read_blocks(): the blocks of a quantized GGUF format as in the file, [rows, bytes per row], uint8. Transforms that
    move rows apply to them, too.
    quantized: the matrix as codes and scales. If several tensors of the file make up the matrix, the reader offers
    them as one, called `<module>.weight`, in the matrix's shape; `read` dequantizes by the format's reference.
    wider_format: the format of `quantized` if its codes have more bits than the file's, for the same values.
    part(index): the tensor at one index of the first dimension, such as an expert's matrix in a stack.
    read_stored(): the tensor in the file's own dtype; only for safetensors.
    may_be_unused: the loader may ignore the tensor if the architecture does not use it.
    """

    name: str
    shape: tuple[int, ...]
    format: str  # in the file: "BF16", "Q4_K", ...
    num_bytes: int  # in the file
    file: Path
    read: Callable[[torch.dtype], torch.Tensor] | None
    read_blocks: Callable[[], torch.Tensor] | None = None
    quantized: StoredQuant | None = None
    wider_format: str | None = None
    part: "Callable[[int], StoredTensor] | None" = None
    read_stored: Callable[[], torch.Tensor] | None = None
    may_be_unused: bool = False


class Checkpoint(Protocol):
    """Weight files whose headers were checked against the files' sizes. Tensor names are unique over all files."""

    tensors: dict[str, StoredTensor]  # in file order, so that loading reads each file once, forward
    dtype: torch.dtype  # of the unquantized tensors
