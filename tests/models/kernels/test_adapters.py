"""Adapters of linear layers against float64 products of the same bf16 numbers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from models.kernels.cpu.adapters import AdapterTable
from models.kernels.cpu.library import KernelLibrary
from models.kernels.operands import LowRankChange
from models.kernels.row_input import PLAIN, InputKind, RowInput

OUTPUTS, COLUMNS = 150, 96
# (first output, outputs, rank): q, k and v of a layer, or some of them
WHOLE = ((0, OUTPUTS, 16),)
FUSED = ((0, 70, 8), (70, 16, 3), (86, 64, 5))
SOME = ((86, 64, 33),)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers that bf16 has."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def _adapter(places: tuple[tuple[int, int, int], ...], *, columns: int = COLUMNS, seed: int = 0) -> list[LowRankChange]:
    return [
        LowRankChange(
            first, _random(rank, columns, seed=seed + rank) / columns**0.5, _random(rows, rank, seed=seed + rows)
        )
        for first, rows, rank in places
    ]


def _table(kernels: KernelLibrary, *adapters: list[LowRankChange], columns: int = COLUMNS) -> AdapterTable:
    table = AdapterTable(len(adapters), columns, library=kernels)
    for slot, pairs in enumerate(adapters):
        table.set(slot, table.pack([replace(pair, a=pair.a.bfloat16()) for pair in pairs]))
    return table


def _adapted(x: torch.Tensor, slots: list[int], out: torch.Tensor, adapters: list[list[LowRankChange]]) -> torch.Tensor:
    """x: the prepared rows."""
    want = out.double().clone()
    for row, slot in enumerate(slots):
        for pair in adapters[slot] if slot >= 0 else ():
            columns = slice(pair.first, pair.first + len(pair.b))
            ranks = (x[row].double() @ pair.a.bfloat16().double().T).bfloat16().double()
            part = want[row, columns] * (1 if pair.gain is None else pair.gain) + pair.b.double() @ ranks
            want[row, columns] = part + (0 if pair.shift is None else pair.shift)
    return want


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 32, 33, 130])
@pytest.mark.parametrize("places", [WHOLE, FUSED, SOME])
def test_one_adapter_for_all_rows(kernels: KernelLibrary, places: tuple[tuple[int, int, int], ...], rows: int) -> None:
    pairs, x, out = _adapter(places), _random(rows, COLUMNS, seed=1), _random(rows, OUTPUTS, seed=2)
    want = _adapted(x, [0] * rows, out, [pairs])
    _table(kernels, pairs).adapt(x, torch.zeros(rows, dtype=torch.int32), out)
    # a product of ranks may round to the neighboring bf16: 2^-8 of one of up to 33 terms
    torch.testing.assert_close(out.double(), want, atol=3e-2, rtol=1e-3)
    assert (out.double() - want).abs().mean() < 2e-4


@pytest.mark.parametrize("rows", [5, 64])
def test_rows_have_adapters_of_their_own_in_any_order(kernels: KernelLibrary, rows: int) -> None:
    adapters = [_adapter(WHOLE), _adapter(FUSED, seed=7), [], _adapter(SOME, seed=9)]
    slots = [(5 * row) % 5 - 1 if row % 7 else row % 4 for row in range(rows)]
    slots = [slot if slot < 4 else -1 for slot in slots]
    slots[1:5] = [3, -1, 1, 2]
    x, out = _random(rows, COLUMNS, seed=1), _random(rows, OUTPUTS, seed=2)
    want, before = _adapted(x, slots, out, adapters), out.clone()
    _table(kernels, *adapters).adapt(x, torch.tensor(slots, dtype=torch.int32), out)
    torch.testing.assert_close(out.double(), want, atol=3e-2, rtol=1e-3)
    assert (out.double() - want).abs().mean() < 2e-4
    for row, slot in enumerate(slots):
        assert torch.equal(out[row], before[row]) == (slot in (-1, 2))


@pytest.mark.parametrize("rows", [1, 50])
@pytest.mark.parametrize("kind", [InputKind.RMS_NORM, InputKind.LAYER_NORM, InputKind.SILU_GATED, InputKind.GELU])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_are_prepared_as_the_layer_does(
    kernels: KernelLibrary, dtype: torch.dtype, kind: InputKind, rows: int
) -> None:
    columns = 4864  # several parts
    weight, bias = _random(columns, seed=3), _random(columns, seed=4)
    x = _random(rows, 2 * columns if kind == InputKind.SILU_GATED else columns, seed=1)
    functions = {
        InputKind.RMS_NORM: lambda: F.rms_norm(x, (columns,), weight, 1e-5),
        InputKind.LAYER_NORM: lambda: F.layer_norm(x, (columns,), weight, bias, 1e-5),
        InputKind.SILU_GATED: lambda: F.silu(x[:, :columns]) * x[:, columns:],
        InputKind.GELU: lambda: F.gelu(x),
    }
    prepare = RowInput(kind, weight, bias if kind == InputKind.LAYER_NORM else None, 1e-5)
    pairs, out = _adapter(FUSED, columns=columns), _random(rows, OUTPUTS, seed=2)
    want = _adapted(functions[kind]().bfloat16(), [0] * rows, out, [pairs])
    given = out.to(dtype)
    table = _table(kernels, pairs, columns=columns)
    table.adapt(x.to(dtype), torch.zeros(rows, dtype=torch.int32), given, prepare=prepare)
    tolerance = 5e-2 if dtype == torch.float32 else 1e-1
    torch.testing.assert_close(given.double(), want, atol=tolerance, rtol=1e-2)
    # silu is computed to what bf16 tells apart, so that some products round to the neighboring bf16
    is_exact = dtype == torch.float32 and kind != InputKind.SILU_GATED
    assert (given.double() - want).abs().mean() < (1e-3 if is_exact else 5e-3)


@pytest.mark.parametrize("rows", [2, 40])
def test_outputs_may_be_scaled_and_shifted_first(kernels: KernelLibrary, rows: int) -> None:
    first, last = _adapter(((0, 70, 8), (75, 75, 4)))
    pairs = [
        replace(first, gain=_random(70, seed=5)),
        replace(last, gain=_random(75, seed=6), shift=_random(75, seed=8)),
    ]
    x, wide = _random(rows, 200, seed=1), _random(rows, 300, seed=2)
    x, out = x[:, 50 : 50 + COLUMNS], wide[:, 30 : 30 + OUTPUTS]  # rows are strided
    want, before = _adapted(x, [0] * rows, out, [pairs]), wide.clone()
    _table(kernels, pairs).adapt(x, torch.zeros(rows, dtype=torch.int32), out, prepare=PLAIN)
    torch.testing.assert_close(out.double(), want, atol=3e-2, rtol=1e-3)
    assert torch.equal(wide[:, :30], before[:, :30])
    assert torch.equal(wide[:, 30 + OUTPUTS :], before[:, 30 + OUTPUTS :])
    assert torch.equal(out[:, 70:75], before[:, 100:105])


def test_pairs_may_share_their_first_matrix(kernels: KernelLibrary) -> None:
    first, last = _adapter(((0, 70, 5), (86, 64, 5)))
    pairs = [first, replace(last, a=first.a)]
    x, out = _random(3, COLUMNS, seed=1), _random(3, OUTPUTS, seed=2)
    want = _adapted(x, [0] * 3, out, [pairs])
    table = AdapterTable(1, COLUMNS, library=kernels)
    table.set(0, table.pack(pairs))
    table.adapt(x, torch.zeros(3, dtype=torch.int32), out)
    torch.testing.assert_close(out.double(), want, atol=3e-2, rtol=1e-3)


def test_a_slot_may_be_emptied_and_filled_again(kernels: KernelLibrary) -> None:
    x, slots = _random(2, COLUMNS, seed=1), torch.tensor([0, 1], dtype=torch.int32)
    table = _table(kernels, _adapter(WHOLE), _adapter(FUSED))
    table.set(0, table.pack([]))
    out, before = _random(2, OUTPUTS, seed=2), _random(2, OUTPUTS, seed=2)
    table.adapt(x, slots, out)
    assert torch.equal(out[0], before[0])
    assert not torch.equal(out[1], before[1])
    other = _adapter(SOME, seed=9)
    want = _adapted(x, [0, -1], before, [other])
    table.set(0, table.pack(other))
    out = before.clone()
    table.adapt(x, torch.tensor([0, -1], dtype=torch.int32), out)
    torch.testing.assert_close(out.double(), want, atol=3e-2, rtol=1e-3)
