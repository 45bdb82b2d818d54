"""The kernels on ARM64, emulated: part of the comparisons that other tests make on this machine's processor.

Nothing is timed here. Skipped where the cross-compiler or the emulator is missing.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.kernels.cpu import library
from models.kernels.linear import WeightFormat
from models.kernels.row_input import InputKind
from tests.kernels import test_attention, test_bf16_linear, test_quantized_linear, test_rope_kv_write
from tests.kernels.arm64 import Arm64Library, compile_driver, missing_tools

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_tools() is not None, reason=f"ARM64 kernels are not tested: {missing_tools()}"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_driver(tmp_path_factory.mktemp("arm64"))


@pytest.fixture
def arm64(driver: Path) -> Iterator[Arm64Library]:
    emulated = Arm64Library(driver, library.load_level("portable"))
    with emulated.recording():
        yield emulated


@pytest.mark.parametrize("fmt", test_quantized_linear.FORMATS)
def test_packing_and_gathering(arm64: Arm64Library, fmt: WeightFormat) -> None:
    test_quantized_linear.test_gathered_rows_are_exactly_gguf_values(arm64, fmt)


@pytest.mark.parametrize("fmt", test_quantized_linear.FORMATS)
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_quantized_products(arm64: Arm64Library, fmt: WeightFormat, rows: int) -> None:
    test_quantized_linear.test_product_equals_dequantised_product_over_row_counts(arm64, fmt, rows)


@pytest.mark.parametrize("rows", [1, 40])
def test_segments(arm64: Arm64Library, rows: int) -> None:
    test_quantized_linear.test_segments_of_different_formats_stand_side_by_side(arm64, rows)
    test_bf16_linear.test_segments_biases_and_residual(arm64, rows)


@pytest.mark.parametrize("kind", list(InputKind))
def test_prepared_rows(arm64: Arm64Library, kind: InputKind) -> None:
    test_quantized_linear.test_input_rows_are_prepared(arm64, kind, 30)


@pytest.mark.parametrize("rows", [1, 4, 65])
@pytest.mark.parametrize(("outputs", "columns"), [(1, 16), (83, 576), (33, 80)])
def test_bf16_products(arm64: Arm64Library, outputs: int, columns: int, rows: int) -> None:
    test_bf16_linear.test_product_equals_float64_product(arm64, outputs, columns, rows)


def test_bf16_gathering(arm64: Arm64Library) -> None:
    test_bf16_linear.test_gathered_rows_are_the_matrix_rows(arm64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (5, 1, 80)])
def test_attention_over_head_shapes(
    arm64: Arm64Library, heads: int, kv_heads: int, dim: int, dtype: torch.dtype
) -> None:
    test_attention.test_attention_equals_reference_over_head_shapes(arm64, heads, kv_heads, dim, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_with_values_in_its_keys(arm64: Arm64Library, dtype: torch.dtype) -> None:
    test_attention.test_attention_with_values_in_its_keys_equals_reference(arm64, 40, 1, 576, 64, 16, dtype)


@pytest.mark.parametrize(
    "options", [{"sliding_window": 33}, {"chunk": 40}, {"logit_softcap": 2.0}, {"has_alibi": True}, {"has_sinks": True}]
)
def test_attention_over_options(arm64: Arm64Library, options: dict[str, float]) -> None:
    test_attention.test_attention_equals_reference_over_options(arm64, options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_and_kv_write(arm64: Arm64Library, dtype: torch.dtype) -> None:
    test_rope_kv_write.test_rotate_and_write_equals_torch(arm64, 4, 2, 80, 40, 5, dtype)
