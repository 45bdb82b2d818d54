"""Adapters that the layer's own call computes: as by a call of their own, and the same for a row whatever others there
are."""

import pytest
import torch

from models.kernels.adapters import AdapterTable, KernelPair
from models.kernels.cpu.library import KernelLibrary
from models.kernels.linear import PackedLinear
from models.kernels.packed_weight import WeightFormat, pack_weight
from models.kernels.row_input import PLAIN, InputKind, RowInput
from tests.models.kernels.test_quantized_linear import AMX_ROWS, random_blocks

COLUMNS = 512  # several parts of a sum
SEGMENTS = (WeightFormat.Q4_0, 96), (WeightFormat.Q8_0, 32), (WeightFormat.Q6_K, 40)  # the last block is not whole
OUTPUTS = sum(rows for _, rows in SEGMENTS)
SHARDS = tuple((sum(rows for _, rows in SEGMENTS[:index]), rows) for index, (_, rows) in enumerate(SEGMENTS))
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


def _pairs(places: tuple[tuple[int, int], ...], rank: int, seed: int, *, has_gain: bool = False) -> list[KernelPair]:
    gain = _random(OUTPUTS, seed=seed).abs() if has_gain else None
    return [
        KernelPair(
            first,
            _random(rank + index, COLUMNS, seed=seed + index) / COLUMNS**0.5,
            _random(rows, rank + index, seed=seed + 10 + index),
            None if gain is None else gain[first : first + rows],
            None if gain is None else gain[first : first + rows] - 1,
        )
        for index, (first, rows) in enumerate(places)
    ]


def _table(kernels: KernelLibrary) -> AdapterTable:
    """Slots: pairs of all shards, of one of them at a high rank, of all outputs at once, and none."""
    table = AdapterTable(4, COLUMNS, library=kernels)
    table.set(0, table.pack(_pairs(SHARDS, 7, seed=1)))
    table.set(1, table.pack(_pairs(SHARDS[1:2], 70, seed=2)))
    table.set(2, table.pack(_pairs(((0, OUTPUTS),), 16, seed=3, has_gain=True)))
    return table


def _slots(rows: int) -> torch.Tensor:
    return torch.tensor([(7 * row + row // 5) % 5 - 1 for row in range(rows)], dtype=torch.int32)


def _inputs(rows: int, prepare: RowInput) -> tuple[torch.Tensor, torch.Tensor]:
    """x, and a residual, in bf16."""
    x = _random(rows, COLUMNS * (2 if prepare.is_gated else 1), seed=rows)
    return x.bfloat16(), _random(rows, OUTPUTS, seed=rows + 1).bfloat16()


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 40, 64, 65, 131])
@pytest.mark.parametrize("prepare", [PLAIN, NORM], ids=["plain", "norm"])
def test_a_fused_call_gives_what_two_calls_give(kernels: KernelLibrary, prepare: RowInput, rows: int) -> None:
    linear, table, slots = _linear(kernels), _table(kernels), _slots(rows)
    x, residual = _inputs(rows, prepare)

    want = linear(x, prepare=prepare, residual=residual)
    plain = want.clone()
    table.adapt(x, slots, want, prepare=prepare)

    got = linear(x, prepare=prepare, residual=residual, adapted=table.rows(slots))
    assert torch.equal(got, want)
    changed = [not torch.equal(row, before) for row, before in zip(got, plain, strict=True)]
    assert changed == [slot in (0, 1, 2) for slot in slots.tolist()]


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


def test_pairs_that_share_no_blocks_with_the_layer_are_computed_after_it(kernels: KernelLibrary) -> None:
    linear, table, slots = (
        _linear(kernels),
        AdapterTable(1, COLUMNS, library=kernels),
        torch.zeros(5, dtype=torch.int32),
    )
    table.set(0, table.pack(_pairs(((0, 90), (90, 78)), 4, seed=1)))
    x, _ = _inputs(5, PLAIN)
    want = linear(x)
    table.adapt(x, slots, want)
    assert torch.equal(linear(x, adapted=table.rows(slots)), want)


def test_weights_of_other_kinds_have_no_fused_call(kernels: KernelLibrary) -> None:
    raw = _random(16, COLUMNS).bfloat16()
    packed = pack_weight(WeightFormat.BF16, raw, *raw.shape, library=kernels)
    assert not PackedLinear([packed], library=kernels).takes_adapters
