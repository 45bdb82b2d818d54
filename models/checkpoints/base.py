"""What every checkpoint reader offers the loader: named tensors, described before any of them is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from models.quant.tensor import QuantKind, QuantTensor


@dataclass(frozen=True, slots=True)
class StoredQuant:
    """A quantized matrix of a file: what its header says, and how to read it."""

    kind: QuantKind
    read: Callable[[], QuantTensor]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file; only the `read` functions and `quantized` read it.

    read(dtype): the tensor, dequantized. None for what is no format of weights by itself: integers, masks, codes that
    need scales beside them.
    read_blocks(): the blocks of a quantized GGUF format as they are in the file, [rows, bytes a row], uint8. Transforms
    that move rows apply to them too.
    quantized: the matrix as codes and scales. Where several tensors of the file make up the matrix, the reader offers
    them as one, called `<module>.weight`, of the matrix's shape; `read` dequantizes by the format's reference.
    wider_format: the format of `quantized` where it has more bits than the file's own, with the same numbers.
    part(index): the tensor at one index of the first dimension, such as an expert's matrix of a stack.
    read_stored(): the tensor in the file's own dtype, whatever that is; of safetensors.
    may_be_unused: the loader may ignore the tensor if the architecture has no place for it.
    """

    name: str
    shape: tuple[int, ...]
    format: str  # how the file stores it: "BF16", "Q4_K", ...
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
    """Files that were checked against their sizes. Names are unique over all of them."""

    tensors: dict[str, StoredTensor]  # in file order, so that loading reads each file once, forward
    dtype: torch.dtype  # of the unquantized tensors
