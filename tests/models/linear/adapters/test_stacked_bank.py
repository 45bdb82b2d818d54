"""Adapters in slots that a GPU's kernels index, by Triton's interpreter: against torch, which takes them one by one."""

import itertools
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch

from models.kernels.cpu.arena import HugePageArena
from models.kernels.operands import LowRankStack
from models.kernels.triton import low_rank
from models.kernels.triton.low_rank import add_low_rank
from models.kernels.triton.operations import TritonOperations
from models.kernels.triton.tuned import LowRankTiles
from models.linear.adapters.adapter import LayerAdapter, LowRankPair
from models.linear.adapters.look_up_bank import LookUpBank, MaskedLookUpBank
from models.linear.adapters.stacked_bank import StackedBank
from models.linear.adapters.torch_bank import TorchBank
from models.linear.dense import DenseLinearMethod
from models.linear.linear import Linear
from tests.helpers.gpu.compile import compiled, launches
from tests.helpers.gpu.interpreter import interpreting
from tests.helpers.random_quantized import relative_error
from tests.models.kernels.test_rows import normal

CPU = torch.device("cpu")
OPERATIONS = TritonOperations(CPU).linear()
COLUMNS, SHARDS = 40, {"q": 70, "k": 24, "v": 24}  # no whole tiles
ROWS = sum(SHARDS.values())
SLOTS = torch.tensor([2, -1, 0, 2, 0, -1], dtype=torch.int32)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def layer_with(dtype: torch.dtype, *, shards: Any = SHARDS, has_bias: bool = True) -> Linear:
    layer = Linear(COLUMNS, shards, has_bias=has_bias, method=DenseLinearMethod(dtype, OPERATIONS))
    state = {name: normal(*each.shape, seed=3).to(each.dtype) for name, each in layer.named_parameters()}
    layer.load_state_dict(state, assign=True)
    return layer


def pair(shard: str | None, rank: int, *, seed: int, has_gain: bool = False, has_bias: bool = False) -> LowRankPair:
    first = {"q": 0, "k": 70, "v": 94, None: 0}[shard]
    count = ROWS if shard is None else SHARDS[shard]
    gain = 1 + 0.3 * normal(count, seed=seed + 7) if has_gain else None
    bias = normal(count, seed=seed + 8) if has_bias else None
    return LowRankPair(
        first, normal(rank, COLUMNS, seed=seed), normal(count, rank, seed=seed + 1), 0.3, bias, gain, gain
    )


PLAIN = LayerAdapter((pair("q", 3, seed=10), pair("v", 20, seed=20)))
WHOLE = LayerAdapter((pair(None, 5, seed=30),))
DORA = LayerAdapter((pair("k", 4, seed=40, has_gain=True), pair("v", 2, seed=50, has_gain=True, has_bias=True)))
REPLACED = LayerAdapter((pair("q", 2, seed=60),), normal(ROWS, COLUMNS, seed=70))


def outputs(layer: Linear, bank: Any, adapters: dict[int, LayerAdapter | None], residual: torch.Tensor | None) -> Any:
    for slot, adapter in adapters.items():
        bank.set(slot, None if adapter is None else bank.prepare(adapter, HugePageArena()))
    layer.adapters = bank
    x = normal(len(SLOTS), COLUMNS, seed=1, dtype=layer.method.bias_dtype)
    return layer(x, residual=None if residual is None else residual.clone(), adapter_slots=SLOTS)


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize(
    "adapters",
    [{0: PLAIN, 2: WHOLE}, {0: DORA, 2: PLAIN}, {0: REPLACED, 1: DORA}],
    ids=["pairs", "gains and shifts", "a replaced weight"],
)
def test_rows_get_what_torch_computes(adapters: dict[int, LayerAdapter | None], *, has_residual: bool) -> None:
    residual = normal(len(SLOTS), ROWS, seed=2) if has_residual and 1 not in adapters else None
    layer = layer_with(torch.float32)
    want = outputs(layer, TorchBank(layer, torch.float32), adapters, residual)

    with interpreting():
        got = outputs(layer, StackedBank(layer, 3, 20, OPERATIONS), adapters, residual)

    layer.adapters = None
    plain = layer(normal(len(SLOTS), COLUMNS, seed=1), residual=None if residual is None else residual.clone())
    assert relative_error(got, want) < 1e-5
    assert torch.equal(got[SLOTS < 0], plain[SLOTS < 0])
    assert (got - plain)[SLOTS == 0].abs().amax() > 0.1


def test_bf16_is_as_near_as_its_numbers() -> None:
    exact, layer = layer_with(torch.float32), layer_with(torch.bfloat16)
    adapters: dict[int, LayerAdapter | None] = {0: PLAIN, 2: DORA}
    residual = normal(len(SLOTS), ROWS, seed=2, dtype=torch.bfloat16)
    want = outputs(exact, TorchBank(exact, torch.float32), adapters, residual.float())

    with interpreting():
        got = outputs(layer, StackedBank(layer, 3, 32, OPERATIONS), adapters, residual)

    assert got.dtype == torch.bfloat16
    assert relative_error(got, want) < 1e-2


def test_a_slot_keeps_nothing_of_the_adapter_before() -> None:
    """Neither ranks that the new one lacks, nor gains, nor other parts."""
    layer = layer_with(torch.float32)
    bank = StackedBank(layer, 3, 32, OPERATIONS)
    with interpreting():
        outputs(layer, bank, {0: DORA, 2: PLAIN}, None)
        got = outputs(layer, bank, {0: WHOLE, 2: None}, None)

    assert relative_error(got, outputs(layer, TorchBank(layer, torch.float32), {0: WHOLE}, None)) < 1e-5


def test_memory_stays_where_it_is_while_slots_change() -> None:
    layer = layer_with(torch.float32)
    bank = StackedBank(layer, 3, 32, OPERATIONS)
    variants, addresses = [], set()
    for adapter in (PLAIN, WHOLE, None, DORA, PLAIN, REPLACED, None):
        bank.set(1, None if adapter is None else bank.prepare(adapter, HugePageArena()))
        variants.append(bank.variant)
        addresses.add((bank._stack.a.data_ptr(), bank._stack.b.data_ptr(), bank._stack.ranks.data_ptr()))
    assert len(addresses) == 1
    changes = [one != other for one, other in itertools.pairwise(variants)]
    assert changes == [False, False, True, False, True, True]  # the first gain; a weight comes, and goes


def stack_of(num_slots: int, parts: list[tuple[int, int]], rank: int, columns: int, dtype: torch.dtype) -> LowRankStack:
    outputs = sum(count for _, count in parts)
    return LowRankStack(
        normal(num_slots, len(parts) * rank * columns, seed=1, dtype=dtype).view(num_slots, len(parts), rank, columns),
        normal(num_slots, outputs * rank, seed=2, dtype=dtype).view(num_slots, outputs, rank),
        torch.full((num_slots, len(parts)), rank, dtype=torch.int32),
        torch.tensor(parts, dtype=torch.int32),
        max(count for _, count in parts),
    )


def test_splits_of_the_columns_are_summed() -> None:
    stack = stack_of(2, [(0, 40)], 16, 80, torch.float32)
    x, slots = normal(3, 80, seed=3), torch.tensor([1, 0, 1], dtype=torch.int32)
    out = torch.zeros(3, 40)
    with interpreting(), patch.object(low_rank, "low_rank_tiles", lambda *_: LowRankTiles(16, 16, 32, 16, 32)):
        add_low_rank(x, slots, stack, out)
    a, b = stack.a[slots.long(), 0].double(), stack.b[slots.long()].double()
    assert relative_error(out, torch.einsum("tnr,trk,tk->tn", b, a, x.double())) < 1e-5


def test_ranks_that_an_adapter_lacks_are_not_read() -> None:
    stack = stack_of(2, [(0, 40)], 32, 32, torch.float32)
    stack.ranks[:] = torch.tensor([[5], [0]])
    stack.a[0, :, 5:] = stack.b[0, :, 5:] = stack.a[1] = stack.b[1] = torch.nan
    out = torch.zeros(4, 40)
    with interpreting():
        add_low_rank(normal(4, 32, seed=3), torch.tensor([0, 1, -1, 0], dtype=torch.int32), stack, out)
    assert out.isfinite().all()
    assert out.abs().amax(1).gt(0).tolist() == [True, False, False, True]


def test_a_step_without_rows_launches_nothing() -> None:
    stack = stack_of(2, [(0, 40)], 16, 32, torch.float32)
    assert not launches(
        lambda: add_low_rank(torch.empty(0, 32), torch.empty(0, dtype=torch.int32), stack, torch.empty(0, 40))
    )


def test_embeddings_are_adapted_as_by_torch() -> None:
    pairs = (LowRankPair(0, normal(3, 11, seed=1), normal(8, 3, seed=2), 0.5),)
    adapters = {0: LayerAdapter(pairs), 2: LayerAdapter(pairs, normal(11, 8, seed=3))}
    ids, rows = torch.tensor([1, 10, 0, 3, 3, 7]), normal(6, 8, seed=4)
    results = []
    for bank in (LookUpBank(CPU), MaskedLookUpBank(CPU)):
        for slot, adapter in adapters.items():
            bank.set(slot, bank.prepare(adapter))
        results.append(bank.adapt(ids, rows.clone(), SLOTS))
    torch.testing.assert_close(*results)
    assert torch.equal(results[1][1], rows[1])


def test_products_use_tensor_cores() -> None:
    check_compiled(8, 90, torch.bfloat16)


@pytest.mark.long
@pytest.mark.parametrize("sm", [80, 90, 100])
@pytest.mark.parametrize(
    ("num_rows", "dtype"), [(8, torch.bfloat16), (2048, torch.bfloat16), (8, torch.float32), (2048, torch.float32)]
)
def test_products_compile_without_spills(num_rows: int, dtype: torch.dtype, sm: int) -> None:
    check_compiled(num_rows, sm, dtype)


def check_compiled(num_rows: int, sm: int, dtype: torch.dtype) -> None:
    with torch.device("meta"):
        stack = LowRankStack(
            torch.empty(8, 3, 64, 4096, dtype=dtype),
            torch.empty(8, 6144, 64, dtype=dtype),
            torch.empty(8, 3, dtype=torch.int32),
            torch.empty(3, 2, dtype=torch.int32),
            4096,
            torch.empty(8, 2, 6144),
        )
        rows, out = torch.empty(num_rows, 4096, dtype=dtype), torch.empty(num_rows, 6144, dtype=dtype)
        slots = torch.empty(num_rows, dtype=torch.int32)
    for each in (stack, stack._replace(vectors=None)):
        for launch in launches(lambda each=each: add_low_rank(rows, slots, each, out, out)):
            code = compiled(launch, sm)
            code.check()
            if dtype == torch.bfloat16:
                assert code.count("HMMA|HGMMA|UTCHMMA|UTCMMA") > 0
