"""NativeBank: what a slot computes does not depend on what the others have."""

from types import SimpleNamespace

import pytest
import torch

from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.library import kernel_library
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.packed_weight import pack_weight
from models.kernels.formats import WeightFormat
from models.kernels.row_input import IDENTITY
from models.linear.adapters.adapter import LayerAdapter, LowRankPair
from models.linear.adapters.native_bank import NativeBank
from tests.models.kernels.test_quantized_linear import random_blocks

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")

COLUMNS, OUTPUTS, ROWS = 256, 96, 12


def _random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def _bank() -> NativeBank:
    raw = random_blocks(WeightFormat.Q8_0, OUTPUTS, COLUMNS, 0)[0]
    linear = PackedLinear([pack_weight(WeightFormat.Q8_0, raw, OUTPUTS, COLUMNS)])
    layer = SimpleNamespace(in_features=COLUMNS, bias=None, read_rows=lambda *_: torch.zeros(1, COLUMNS))
    return NativeBank(layer, SimpleNamespace(packed=linear), max_slots=2)  # type: ignore[arg-type]


def test_a_weight_in_another_slot_changes_no_bit() -> None:
    pair = LowRankPair(0, _random(8, COLUMNS, seed=1), _random(OUTPUTS, 8, seed=2), 0.1)
    weight = _random(OUTPUTS, COLUMNS, seed=3)
    x, slots = _random(ROWS, COLUMNS, seed=4), torch.tensor([0, -1, 1] * (ROWS // 3), dtype=torch.int32)
    bank, arena = _bank(), HugePageArena()
    bank.set(0, bank.prepare(LayerAdapter((pair,)), arena))
    alone = bank.multiply(x, IDENTITY, None, torch.bfloat16, slots)

    bank.set(1, bank.prepare(LayerAdapter((pair,), weight), arena))
    beside = bank.multiply(x, IDENTITY, None, torch.bfloat16, slots)

    assert torch.equal(beside[slots != 1], alone[slots != 1])
    rows = x[slots == 1].double()
    want = rows @ weight.double().T + 0.1 * (rows @ pair.a.double().T) @ pair.b.double().T
    torch.testing.assert_close(beside[slots == 1].double(), want, atol=0.3, rtol=2e-2)
