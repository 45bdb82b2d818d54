"""CodedWeight: a quantized matrix in the layout that a GPU's kernels multiply. Loads no library."""

import dataclasses
import enum
from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Of a CodedWeight, those whose rows are the matrix's.
_TENSORS = ("codes", "upper", "scales", "zeros", "minima", "supers", "super_minima")
CODE_COLUMNS = 32  # the columns of a matrix, and of its groups, are a multiple of this


class CodeKind(enum.IntEnum):
    """The numbers that codes stand for."""

    NIBBLES = 0  # 0..15
    TABLE = 1  # 4 bits, the index of a number in a table of 16
    SIX_BITS = 2  # 0..63
    INT8 = 3
    E4M3 = 4  # bytes of float8_e4m3fn


@dataclass(frozen=True, slots=True, eq=False)
class CodedWeight:
    """A quantized matrix on a GPU, [rows, columns].

    scales: [rows / row_group, columns / group], both rounded up; floating, or uint8 exponents (E8M0), or integers that
    `supers` [rows, columns / super_group] multiplies. zeros: integers in the shape of the scales. minima: numbers in
    the shape of the scales, times `super_minima` if there are supers. offset: subtracted from all codes.
    """

    kind: CodeKind
    columns: int
    codes: torch.Tensor  # [rows, bytes]
    scales: torch.Tensor
    group: int
    row_group: int = 1
    upper: torch.Tensor | None = None  # of SIX_BITS: [rows, columns / 4]
    table: torch.Tensor | None = None  # [16] fp32
    is_table_exact: bool = False  # whether bf16 holds the table's numbers
    zeros: torch.Tensor | None = None
    minima: torch.Tensor | None = None
    supers: torch.Tensor | None = None
    super_minima: torch.Tensor | None = None
    super_group: int = 256
    offset: int = 0

    @property
    def rows(self) -> int:
        return len(self.codes)


def are_alike(weights: Sequence[CodedWeight]) -> bool:
    """Whether `joined` takes the matrices."""
    return len({_layout(weight) for weight in weights}) == 1


def joined(weights: Sequence[CodedWeight]) -> CodedWeight:
    """Return one matrix with the rows of several that are alike, one after the other."""
    if len(weights) == 1:
        return weights[0]
    spread = [_spread(weight) for weight in weights]
    tensors = {
        name: torch.cat([getattr(weight, name).view(torch.uint8) for weight in spread]).view(part.dtype)
        for name in _TENSORS
        if (part := getattr(spread[0], name)) is not None
    }
    return dataclasses.replace(spread[0], **tensors)


def divided(weight: CodedWeight, count: int) -> list[CodedWeight]:
    """Return views of the `count` matrices of equally many rows that a matrix joins."""
    assert count == 1 or weight.row_group == 1  # as `joined` makes them of several
    parts = {name: part.chunk(count) for name in _TENSORS if (part := getattr(weight, name)) is not None}
    return [
        dataclasses.replace(weight, **{name: chunks[index] for name, chunks in parts.items()}) for index in range(count)
    ]


def _layout(weight: CodedWeight) -> tuple[object, ...]:
    dtypes = [None if (part := getattr(weight, name)) is None else part.dtype for name in _TENSORS]
    table = None if weight.table is None else tuple(weight.table.tolist())
    return weight.kind, weight.columns, weight.group, weight.offset, table, *dtypes


def _spread(weight: CodedWeight) -> CodedWeight:
    """Return the matrix with scales of its own for each row."""
    if weight.row_group == 1:
        return weight
    groups = torch.arange(weight.rows, device=weight.codes.device) // weight.row_group
    zeros = None if weight.zeros is None else weight.zeros[groups]
    return dataclasses.replace(weight, scales=weight.scales[groups], zeros=zeros, row_group=1)
