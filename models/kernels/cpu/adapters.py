"""AdapterTable: the LoRA adapters of a linear layer by slot, for native kernels (C++, src/adapters/adapt_rows.cpp)."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.library import KernelLibrary, address, required_library
from models.kernels.cpu.packed_weight import pack_weight
from models.kernels.formats import WeightFormat
from models.kernels.operands import LowRankChange
from models.kernels.row_input import PLAIN, RowInput

_LANES = 16  # outputs of a block; columns must be a multiple


class _Pair(ctypes.Structure):
    """struct hr_low_rank_pair of low_rank.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("b", "gain", "shift")),
        *((name, ctypes.c_int32) for name in ("first", "rows", "first_rank", "rank")),
    )


class _LayerAdapter(ctypes.Structure):
    """struct hr_layer_adapter of low_rank.h."""

    _fields_ = (
        ("a", ctypes.c_void_p),
        ("pairs", ctypes.c_void_p),
        ("num_pairs", ctypes.c_int32),
        ("num_blocks", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True, eq=False)
class PackedPairs:
    """An adapter's LoRA pairs for one layer, packed for the kernels. kept: the memory that `entry` points to."""

    entry: _LayerAdapter
    kept: tuple[object, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedRows:
    """A layer's adapter table, and the slot of each input row. slots: [T] int32, -1 for rows without an adapter."""

    table_address: int
    slots: torch.Tensor

    def arguments(self) -> tuple[int, int]:
        """Return the addresses of the table and of the slots, two arguments of kernels that apply adapters."""
        assert self.slots.dtype == torch.int32
        assert self.slots.is_contiguous()
        return self.table_address, self.slots.data_ptr()


class AdapterTable:
    """The adapters of one layer by slot, at a fixed address, so that recorded calls stay valid when a slot changes."""

    def __init__(self, num_slots: int, columns: int, *, library: KernelLibrary | None = None) -> None:
        """columns: the layer's input features, a multiple of 16."""
        assert columns % _LANES == 0
        self._columns = columns
        self._library = library or required_library()
        self._entries = (_LayerAdapter * num_slots)()
        self._kept: list[PackedPairs | None] = [None] * num_slots  # alive: what the entries point to

    def pack(self, pairs: Sequence[LowRankChange], *, arena: HugePageArena | None = None) -> PackedPairs | None:
        """Pack LoRA pairs for `set`; return None if there are none. May run on any thread, also during a step.

        pairs: on the CPU. arena: allocates the packed pairs; None for torch's allocator.
        """
        if not pairs:
            return None
        first_ranks, stack = self._stacked(pairs)
        packed_a = self._packed(stack, arena)
        kept: list[object] = [packed_a]
        entries = []
        for pair, first_rank in zip(pairs, first_ranks, strict=True):
            packed_b = self._packed(_even_ranks(pair.b, dim=1), arena)
            vectors = [None if vector is None else _whole_blocks(vector) for vector in (pair.gain, pair.shift)]
            rank = pair.b.shape[1] + pair.b.shape[1] % 2
            entries.append(
                _Pair(packed_b.data_ptr(), *map(address, vectors), pair.first, len(pair.b), first_rank, rank)
            )
            kept += [packed_b, *vectors]
        array = (_Pair * len(entries))(*entries)
        blocks = -(-len(stack) // _LANES)
        entry = _LayerAdapter(packed_a.data_ptr(), ctypes.addressof(array), len(entries), blocks)
        return PackedPairs(entry, (*kept, array))

    def set(self, slot: int, packed: PackedPairs | None) -> None:
        """Replace the adapter in a slot; None empties the slot. Must not run during a step."""
        self._entries[slot] = _LayerAdapter() if packed is None else packed.entry
        self._kept[slot] = packed

    def _stacked(self, pairs: Sequence[LowRankChange]) -> tuple[list[int], torch.Tensor]:
        """Return each pair's first row in the stack of all distinct matrices `a`, and the stack: [ranks, in] bf16."""
        begins: dict[int, int] = {}  # by the address of `a`
        parts: list[torch.Tensor] = []
        for pair in pairs:
            assert pair.a.shape == (pair.b.shape[1], self._columns)
            if pair.a.data_ptr() not in begins:
                begins[pair.a.data_ptr()] = sum(map(len, parts))
                parts.append(_even_ranks(pair.a, dim=0))
        return [begins[pair.a.data_ptr()] for pair in pairs], torch.cat([part.to(torch.bfloat16) for part in parts])

    def _packed(self, matrix: torch.Tensor, arena: HugePageArena | None) -> torch.Tensor:
        rounded = matrix.to(torch.bfloat16).contiguous()
        return pack_weight(WeightFormat.BF16, rounded, *rounded.shape, arena=arena, library=self._library).data

    def rows(self, slots: torch.Tensor) -> AdaptedRows:
        """Return PackedLinear's argument `adapted` for rows with these slots: [T] int32, -1 for no adapter."""
        return AdaptedRows(ctypes.addressof(self._entries), slots)

    def adapt(self, x: torch.Tensor, slots: torch.Tensor, out: torch.Tensor, *, prepare: RowInput = PLAIN) -> None:
        """Apply the rows' adapters in place to `out` [T, N], the layer's output for x with the prologue `prepare`.

        x, out: bf16 or fp32; rows may be strided. slots: [T] int32, -1 for rows without an adapter.
        """
        assert x.shape[1] == self._columns * (2 if prepare.is_gated else 1)
        assert x.stride(1) == out.stride(1) == 1
        assert len(x) == len(out) == len(slots)
        self._library.adapt_rows(
            *(x.data_ptr(), x.dtype == torch.bfloat16, x.stride(0), len(x), self._columns, *prepare.arguments()),
            *self.rows(slots).arguments(),
            *(out.data_ptr(), out.dtype == torch.bfloat16, out.stride(0)),
        )


def _even_ranks(matrix: torch.Tensor, dim: int) -> torch.Tensor:
    """Pad dimension `dim`, the LoRA rank, with zeros to an even size."""
    if matrix.shape[dim] % 2 == 0:
        return matrix
    shape = list(matrix.shape)
    shape[dim] = 1
    return torch.cat([matrix, matrix.new_zeros(shape)], dim)


def _whole_blocks(vector: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(vector.to(torch.float32), (0, -len(vector) % _LANES)).contiguous()
