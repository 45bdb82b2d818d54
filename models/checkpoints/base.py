"""What every checkpoint reader offers the loader: named tensors, described before any of them is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from models.quant.tensor import QuantKind, QuantTensor


@dataclass(frozen=True, slots=True)
class StoredQuant:
    """A quantized matrix of a file: what is known of it before it is read, and how to read it."""

    kind: QuantKind
    read: Callable[[], QuantTensor]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file. `read(dtype)` brings it into memory, dequantized; nothing is read before. It is None where
    the file holds something else than the formats of weights: integers, masks, formats that need scales beside them.

    `read_blocks()`, where the file holds blocks of a quantized format, brings these as they are: [rows, bytes a row],
    uint8. Transforms that move rows apply to it too.

    `quantized`, where the file spreads a quantized matrix over several tensors (codes, scales, zeros): the reader
    offers them as one, called `<module>.weight`, of the matrix's shape; `read` dequantizes by the format's reference.

    `part(index)` is the tensor of one index of the first dimension: an expert's matrix of a stack.
    `wider_format`, of more bits and with the same numbers, is what `quantized` brings where nothing computes with the
    file's own.
    `read_stored()`, from safetensors, brings the tensor in the file's own dtype, whatever that is.
    `may_be_unused`: it says nothing where the architecture has no place for it.
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

    tensors: dict[str, StoredTensor]  # in file order, so that reading in this order reads each file once, forwards
    dtype: torch.dtype  # what the unquantized tensors are stored in
