"""Adapters that the layer's own call computes: what a call of their own gives, but rounded once, and the same for a row
whatever others there are."""

import pytest
import torch

from models.kernels.cpu.adapters import AdapterTable
from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.packed_weight import pack_weight
from models.kernels.formats import WeightFormat
from models.kernels.operands import LowRankChange
from models.kernels.row_input import PLAIN, InputKind, RowInput
from tests.models.kernels.test_quantized_linear import AMX_ROWS, random_blocks

COLUMNS = 512  # several parts of a sum
SEGMENTS = (WeightFormat.Q4_0, 96), (WeightFormat.Q8_0, 32), (WeightFormat.Q6_K, 40)  # the last block is not whole
OUTPUTS = sum(rows for _, rows in SEGMENTS)
SHARDS = tuple((sum(rows for _, rows in SEGMENTS[:index]), rows) for index, (_, rows) in enumerate(SEGMENTS))
NUM_SLOTS, EMPTY_SLOT = 6, 3
NORM = RowInput(InputKind.RMS_NORM, torch.linspace(0.5, 1.5, COLUMNS), None, 1e-5)
GATED = RowInput(InputKind.SILU_GATED)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _linear(kernels: KernelLibrary) -> PackedLinear:
    weights = [
        pack_weight(fmt, random_blocks(fmt, rows, COLUMNS, seed)[0], rows, COLUMNS, library=kernels)
        for seed, (fmt, rows) in enumerate(SEGMENTS)
    ]
    biases = [_random(rows, seed=rows) for _, rows in SEGMENTS]
    linear = PackedLinear(weights, biases, library=kernels)
    assert linear.takes_adapters
    return linear


def _pairs(places: tuple[tuple[int, int], ...], rank: int, seed: int, *, has_gain: bool = False) -> list[LowRankChange]:
    gain = _random(OUTPUTS, seed=seed).abs() if has_gain else None
    return [
        LowRankChange(
            first,
            _random(rank + index, COLUMNS, seed=seed + index) / COLUMNS**0.5,
            _random(rows, rank + index, seed=seed + 10 + index),
            None if gain is None else gain[first : first + rows],
            None if gain is None else gain[first : first + rows] - 1,
        )
        for index, (first, rows) in enumerate(places)
    ]


def _table(kernels: KernelLibrary, *, has_gain: bool = True) -> AdapterTable:
    """Slots: pairs of all shards, of one of them at a high rank, of all outputs at once, none, and pairs that share no
    blocks with the layer, some of them with outputs between them."""
    table = AdapterTable(NUM_SLOTS, COLUMNS, library=kernels)
    table.set(0, table.pack(_pairs(SHARDS, 7, seed=1)))
    table.set(1, table.pack(_pairs(SHARDS[1:2], 70, seed=2)))
    table.set(2, table.pack(_pairs(((0, OUTPUTS),), 16, seed=3, has_gain=has_gain)))
    table.set(4, table.pack(_pairs(((0, 90), (90, OUTPUTS - 90)), 4, seed=4)))
    table.set(5, table.pack(_pairs(((3, 20), (24, 5), (100, 30)), 5, seed=5, has_gain=has_gain)))
    return table


def _slots(rows: int) -> torch.Tensor:
    return torch.tensor([(5 * row + row // 7) % (NUM_SLOTS + 1) - 1 for row in range(rows)], dtype=torch.int32)


def _inputs(rows: int, prepare: RowInput) -> tuple[torch.Tensor, torch.Tensor]:
    """x, and a residual, in bf16."""
    x = _random(rows, COLUMNS * (2 if prepare.is_gated else 1), seed=rows)
    return x.bfloat16(), _random(rows, OUTPUTS, seed=rows + 1).bfloat16()


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 40, 64, 65, 131])
@pytest.mark.parametrize("prepare", [PLAIN, NORM], ids=["plain", "norm"])
def test_a_fused_call_gives_what_two_calls_give(kernels: KernelLibrary, prepare: RowInput, rows: int) -> None:
    linear, table, slots = _linear(kernels), _table(kernels), _slots(rows)
    x, _ = _inputs(rows, prepare)

    plain = linear(x, prepare=prepare, out_dtype=torch.float32)
    want = plain.clone()
    table.adapt(x, slots, want, prepare=prepare)

    got = linear(x, prepare=prepare, out_dtype=torch.float32, adapted=table.rows(slots))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)
    changed = [not torch.equal(row, before) for row, before in zip(got, plain, strict=True)]
    assert changed == [slot not in (-1, EMPTY_SLOT) for slot in slots.tolist()]


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 40, 64, 65, 131])
def test_a_residual_is_added_last_and_outputs_are_rounded_once(kernels: KernelLibrary, rows: int) -> None:
    is_two_calls = kernels.level == "amx" and rows >= AMX_ROWS
    linear, table, slots = _linear(kernels), _table(kernels, has_gain=not is_two_calls), _slots(rows)
    x, residual = _inputs(rows, NORM)

    product = linear(x, prepare=NORM, out_dtype=torch.float32, adapted=table.rows(slots))
    exact = linear(x, prepare=NORM, residual=residual.float(), out_dtype=torch.float32, adapted=table.rows(slots))
    rounded = linear(x, prepare=NORM, residual=residual, adapted=table.rows(slots))
    in_place = residual.clone()
    linear(x, prepare=NORM, residual=in_place, out=in_place, adapted=table.rows(slots))

    if is_two_calls:
        torch.testing.assert_close(exact, product + residual.float(), atol=1e-4, rtol=1e-5)
    else:
        assert torch.equal(exact, product + residual.float())
        assert torch.equal(rounded, exact.bfloat16())
    assert torch.equal(in_place, rounded)


@pytest.mark.parametrize("rows", [2, 9, 40, 65, 131])
def test_rows_without_an_adapter_are_as_in_a_call_without_adapters(kernels: KernelLibrary, rows: int) -> None:
    linear, table, slots = _linear(kernels), _table(kernels), _slots(rows)
    x, residual = _inputs(rows, GATED)
    places = torch.isin(slots, torch.tensor([-1, EMPTY_SLOT]))
    plain = linear(x, prepare=GATED, residual=residual)
    got = linear(x, prepare=GATED, residual=residual, adapted=table.rows(slots))
    assert torch.equal(got[places], plain[places])
    assert not torch.equal(got[~places], plain[~places])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gated_rows_differ_by_how_exactly_silu_is_computed(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    linear, table, slots = _linear(kernels), _table(kernels), _slots(9)
    x, _ = _inputs(9, GATED)
    want = linear(x, prepare=GATED, out_dtype=dtype)
    table.adapt(x, slots, want, prepare=GATED)
    got = linear(x, prepare=GATED, out_dtype=dtype, adapted=table.rows(slots))
    assert (got - want).abs().mean() < 1e-2 * want.abs().mean()


@pytest.mark.parametrize("prepare", [PLAIN, NORM, GATED], ids=["plain", "norm", "gated"])
def test_a_row_has_the_same_outputs_alone_as_among_others(kernels: KernelLibrary, prepare: RowInput) -> None:
    linear, table = _linear(kernels), _table(kernels)
    most = AMX_ROWS - 1 if kernels.level == "amx" else 131  # the layer itself rounds otherwise there
    slots = _slots(most)
    x, residual = _inputs(most, prepare)

    def outputs(first: int, count: int) -> torch.Tensor:
        places = slice(first, first + count)
        rows = table.rows(slots[places].contiguous())
        return linear(x[places], prepare=prepare, residual=residual[places], adapted=rows)

    together = outputs(0, most)
    for count in (1, 2, 5, 9, 33, 70):
        for first in range(0, most - count + 1, 17 if count > 1 else 5):
            assert torch.equal(outputs(first, count), together[first : first + count]), (first, count)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_so_it_has_in_a_call_of_their_own(kernels: KernelLibrary, dtype: torch.dtype) -> None:
    table, slots = _table(kernels), _slots(100)
    x, out = _random(100, COLUMNS, seed=4).to(dtype), _random(100, OUTPUTS, seed=5).to(dtype)

    def adapted(first: int, count: int) -> torch.Tensor:
        places = slice(first, first + count)
        changed = out[places].clone()
        table.adapt(x[places], slots[places].contiguous(), changed)
        return changed

    together = adapted(0, 100)
    for count in (1, 2, 6, 33, 50):
        for first in range(0, 100 - count + 1, 13):
            assert torch.equal(adapted(first, count), together[first : first + count]), (first, count)


def test_weights_of_other_kinds_have_no_fused_call(kernels: KernelLibrary) -> None:
    raw = _random(16, COLUMNS).bfloat16()
    packed = pack_weight(WeightFormat.BF16, raw, *raw.shape, library=kernels)
    assert not PackedLinear([packed], library=kernels).takes_adapters
