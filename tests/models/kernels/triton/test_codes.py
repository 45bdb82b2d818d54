"""Products with quantized weights whose codes stay in memory, and dequantization, by Triton kernels."""

import pytest
import torch

from models.checkpoints.gguf.blocks import GGUFRows
from models.kernels.coded_weight import CodedWeight, joined
from models.kernels.formats import WeightFormat
from models.kernels.triton.codes import dequantize_codes, multiply_codes, multiply_grouped_codes
from models.kernels.triton.moe import sort_pairs
from models.kernels.triton.tuned import grouped_tiles
from models.linear.coding import code_blocks, code_quantized
from models.quant.dequantize import dequantize
from models.quant.tensor import Encoding, QuantKind
from tests.helpers.gpu.compile import compiled, launches
from tests.helpers.gpu.interpreter import interpreting
from tests.helpers.random_quantized import random_quantized, relative_error
from tests.models.kernels.test_quantized_linear import random_blocks
from tests.models.kernels.test_rows import normal

ROWS = 40  # two programs, the second not full
QUANTIZED = {
    "int4 g128": (QuantKind(Encoding.INT4, 128), torch.float16),
    "int4 g32 zeros": (QuantKind(Encoding.INT4, 32, has_zeros=True), torch.bfloat16),
    "int4 by row": (QuantKind(Encoding.INT4, 512), torch.float32),
    "int8 by row": (QuantKind(Encoding.INT8, 512), torch.float32),
    "int8 g64 zeros": (QuantKind(Encoding.INT8, 64, has_zeros=True), torch.float16),
    "nf4 g64": (QuantKind(Encoding.NF4, 64), torch.bfloat16),
    "fp4 g64": (QuantKind(Encoding.FP4, 64), torch.float32),
    "mxfp4": (QuantKind(Encoding.E2M1, 32), torch.uint8),
    "iq4_nl": (QuantKind(Encoding.IQ4_NL, 32), torch.float16),
    "fp8 by row": (QuantKind(Encoding.FP8_E4M3, 512), torch.float32),
    "fp8 16x128": (QuantKind(Encoding.FP8_E4M3, 128, row_group=16), torch.float32),
}
BLOCKS = [WeightFormat.Q4_0, WeightFormat.Q4_1, WeightFormat.Q8_0, WeightFormat.Q4_K, WeightFormat.Q6_K]
NAMES = [*QUANTIZED, *(fmt.name for fmt in BLOCKS)]


def coded(name: str, rows: int = ROWS, columns: int = 512) -> tuple[CodedWeight, torch.Tensor]:
    """A random matrix, and its numbers in fp32."""
    if name in QUANTIZED:
        kind, scale_dtype = QUANTIZED[name]
        matrix = random_quantized(kind, rows, columns, scale_dtype=scale_dtype)
        return code_quantized(matrix), dequantize(matrix, torch.float32)
    raw, dense = random_blocks(WeightFormat[name], rows, columns)
    return code_blocks(GGUFRows(WeightFormat[name], raw)), dense


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_products_equal_those_of_the_dequantized_weight(name: str, dtype: torch.dtype) -> None:
    weight, dense = coded(name)
    x = normal(3, 512 + 8, seed=1, dtype=dtype)[:, :-8]
    got = torch.full((3, ROWS + 4), 7.0)

    with interpreting():
        multiply_codes(x, weight, got[:, 2:-2])

    assert relative_error(got[:, 2:-2], x.double() @ dense.double().T) < 1e-5
    assert (got[:, :2] == 7.0).all()
    assert (got[:, -2:] == 7.0).all()


@pytest.mark.parametrize("name", NAMES)
def test_dequantized_rows_are_exact(name: str) -> None:
    weight, dense = coded(name)
    ids = torch.tensor([39, 0, 17])

    with interpreting():
        chosen = dequantize_codes(weight, torch.float32, ids=ids)
        run = dequantize_codes(weight, torch.float32, first=15, count=3)

    torch.testing.assert_close(chosen, dense[ids], rtol=1e-6, atol=0.0)
    torch.testing.assert_close(run, dense[15:18], rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("name", ["int4 g32 zeros", "mxfp4", "fp8 16x128", "Q4_K", "Q6_K"])
def test_rows_are_multiplied_by_the_codes_of_their_experts(name: str) -> None:
    """Two experts for a row; the expert that no row chose is not read."""
    parts = [coded(name, rows=48, columns=256) for _ in range(3)]
    weight, dense = joined([weight for weight, _ in parts]), torch.stack([each for _, each in parts]).double()
    spoiled = weight.scales if weight.supers is None else weight.supers
    spoiled.view(3, 48, -1)[1] = torch.nan if spoiled.is_floating_point() else 255
    experts = torch.tensor([2, 0, 0, 2, 2, 0])
    x, factors = normal(3, 256, seed=1, dtype=torch.bfloat16), torch.linspace(0.5, 1.5, 6)
    biases = normal(3, 48, seed=3)
    pairs = sort_pairs(experts, experts.bincount(minlength=3), 16)

    with interpreting():
        got = multiply_grouped_codes(
            x, weight, biases, pairs, grouped_tiles(1.0, x.dtype), factors=factors, out_dtype=torch.float32
        )

    product = torch.einsum("pk,pnk->pn", x.repeat_interleave(2, 0).double(), dense[experts]) + biases[experts]
    assert relative_error(got, product * factors.unsqueeze(1)) < 1e-5


@pytest.mark.parametrize("rows", [17, 33])
def test_more_rows_are_multiplied_in_larger_tiles(rows: int) -> None:
    weight, dense = coded("Q4_K", columns=256)
    x = normal(rows, 256, seed=1, dtype=torch.bfloat16)
    got = torch.empty(rows, ROWS)

    with interpreting():
        multiply_codes(x, weight, got)

    assert relative_error(got, x.double() @ dense.double().T) < 1e-5


@pytest.mark.parametrize("name", ["int4 g128", "fp8 16x128"])
def test_a_short_last_group_has_its_own_scale(name: str) -> None:
    weight, dense = coded(name, columns=192)
    x, got = normal(2, 192, seed=1, dtype=torch.bfloat16), torch.empty(2, ROWS)

    with interpreting():
        multiply_codes(x, weight, got)
        numbers = dequantize_codes(weight, torch.float32, count=ROWS)

    assert relative_error(got, x.double() @ dense.double().T) < 1e-5
    torch.testing.assert_close(numbers, dense, rtol=1e-6, atol=0.0)


def test_bias_and_residual_are_added_in_place() -> None:
    weight, dense = coded("int4 g128", columns=256)
    x, bias = normal(2, 256, seed=1, dtype=torch.bfloat16), normal(ROWS, seed=2)
    residual = normal(2, ROWS, seed=3)
    want = x.double() @ dense.double().T + bias + residual

    with interpreting():
        multiply_codes(x, weight, residual, bias, residual)

    assert relative_error(residual, want) < 1e-5


def test_a_nan_in_fp8_codes_stays() -> None:
    weight, _ = coded("fp8 by row", 1)
    weight.codes.view(torch.uint8)[0, 3] = 127

    with interpreting():
        assert dequantize_codes(weight, torch.float32, count=1).isnan().sum() == 1


def test_joined_matrices_keep_their_numbers() -> None:
    first, second = coded("fp8 16x128", 24), coded("fp8 16x128", 8)

    with interpreting():
        got = dequantize_codes(joined([first[0], second[0]]), torch.float32, count=32)

    torch.testing.assert_close(got, torch.cat((first[1], second[1])), rtol=1e-6, atol=0.0)


def test_4_bit_codes_are_multiplied_by_tensor_cores() -> None:
    check_compiled("int4 g128", 16, 90)


@pytest.mark.long
@pytest.mark.parametrize("sm", [80, 90])
@pytest.mark.parametrize("rows", [16, 32, 64])
@pytest.mark.parametrize("name", NAMES)
def test_kernels_compile_without_spills(name: str, rows: int, sm: int) -> None:
    check_compiled(name, rows, sm)


@pytest.mark.long
@pytest.mark.parametrize("sm", [80, 90])
@pytest.mark.parametrize("name", NAMES)
def test_dequantization_compiles_without_spills(name: str, sm: int) -> None:
    weight, _ = coded(name)
    for launch in launches(lambda: dequantize_codes(weight, torch.bfloat16, count=ROWS)):
        compiled(launch, sm).check()


def check_compiled(name: str, rows: int, sm: int) -> None:
    weight, _ = coded(name, columns=4096)
    x = torch.empty(rows, 4096, dtype=torch.bfloat16)
    out = torch.empty(rows, ROWS, dtype=torch.bfloat16)
    for launch in launches(lambda: multiply_codes(x, weight, out)):
        code = compiled(launch, sm)
        code.check()
        assert code.count("HG?MMA") > 0
        assert code.count(r"LDGSTS\.E|LDG\.E.*\.128") > 0
