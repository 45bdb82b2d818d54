"""CodedWeight: a quantized matrix in the layout that a GPU's kernels multiply. Loads no library."""

import enum
from dataclasses import dataclass

import torch

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
