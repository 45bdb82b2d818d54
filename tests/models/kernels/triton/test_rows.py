"""Norms, residual sums, activations and gates of rows by Triton, against torch."""

from collections.abc import Iterator

import pytest
import torch

from models.kernels.ops import select_operations
from models.kernels.row_input import IDENTITY, Elementwise, InputKind
from models.kernels.triton.activation import activate_rows
from models.kernels.triton.norm import norm_rows
from models.kernels.triton.operations import TritonOperations
from tests.helpers.gpu.interpreter import interpreting
from tests.models.kernels.test_quantized_linear import prepared_rows, row_input
from tests.models.kernels.test_rows import norm_of, normal

ROWS, COLUMNS = 3, 144
NORMS = [InputKind.RMS_NORM, InputKind.LAYER_NORM]
DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
OPERATIONS = TritonOperations(torch.device("cpu"))


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with interpreting():
        yield


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=tolerance)


def test_cuda_devices_use_the_triton_column() -> None:
    assert isinstance(select_operations(torch.bfloat16, torch.device("cuda")), TritonOperations)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", NORMS)
def test_strided_rows_are_normed(kind: InputKind, dtype: torch.dtype) -> None:
    scale, shift = normal(2, COLUMNS, seed=1)
    x = normal(ROWS, COLUMNS + 16, dtype=dtype)[:, :-16] * 3 + 1

    got = norm_rows(x, row_input(kind, scale, shift), dtype)

    near(got, prepared_rows(kind, x.float(), scale, shift))


def test_a_weight_of_ones_on_the_host_is_not_read() -> None:
    x, far = normal(ROWS, COLUMNS), torch.full((COLUMNS,), torch.nan)
    norm = row_input(InputKind.RMS_NORM, far, far)
    norm = type(norm)(norm.kind, far, None, norm.eps, has_weight=False)

    near(norm_rows(x, norm, torch.float32), prepared_rows(norm.kind, x, torch.ones(COLUMNS), far))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [kind for kind in InputKind if kind not in (*NORMS, InputKind.PLAIN)])
def test_activations_agree_with_torch(kind: InputKind, dtype: torch.dtype) -> None:
    prepare = row_input(kind, *normal(2, COLUMNS))
    width = COLUMNS * (2 if prepare.is_gated else 1)
    x = (normal(2, width + 16) * 3).to(dtype)[:, :-16]

    got = activate_rows(x, prepare, dtype)

    near(got, prepared_rows(kind, x.float(), *normal(2, COLUMNS)))


def test_wide_rows_are_activated_by_several_programs() -> None:
    x = normal(2, 2 * 1100)

    got = activate_rows(x, row_input(InputKind.SILU_GATED, x, x), torch.float32)

    near(got, prepared_rows(InputKind.SILU_GATED, x, x, x))


def test_nan_stays_in_activations() -> None:
    x = torch.full((1, 16), torch.nan)
    for kind in (InputKind.RELU, InputKind.RELU_SQUARED, InputKind.XIELU):
        assert activate_rows(x, row_input(kind, x, x), torch.float32).isnan().all()


@pytest.mark.parametrize("norms_sum", [False, True])
@pytest.mark.parametrize("kind", [None, *NORMS])
@pytest.mark.parametrize(("dtype", "y_dtype"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)])
def test_rows_are_joined_in_place(
    kind: InputKind | None, norms_sum: bool, dtype: torch.dtype, y_dtype: torch.dtype
) -> None:
    norm = norm_of(kind, *normal(2, COLUMNS, seed=1))
    x, y = normal(ROWS, COLUMNS, dtype=dtype), normal(ROWS, COLUMNS, seed=2, dtype=y_dtype)
    wide = y.float()
    want = norm(1.5 * x.float() + 0.7 * wide) if norms_sum else 1.5 * x.float() + 0.7 * norm(wide)

    got = OPERATIONS.join_rows(COLUMNS)(x, y, norm, skip=1.5, scale=0.7, norms_sum=norms_sum)

    assert got.data_ptr() == x.data_ptr()
    near(got, want)


def test_rows_are_joined_with_themselves() -> None:
    norm = norm_of(InputKind.RMS_NORM, *normal(2, COLUMNS, seed=1))
    x = normal(ROWS, COLUMNS)
    want = norm(x)

    near(OPERATIONS.join_rows(COLUMNS)(x, x, norm, scale=0.0, norms_sum=True), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns_each", [1, 48])
def test_rows_are_gated_in_place(columns_each: int, dtype: torch.dtype) -> None:
    both = normal(ROWS, 2, COLUMNS, dtype=dtype)
    x, gate = both[:, 0].clone(), both[:, 1, : COLUMNS // columns_each]
    want = x.float() * torch.sigmoid(gate.float()).repeat_interleave(columns_each, dim=1)

    got = OPERATIONS.gate_rows(columns_each)(x, gate)

    assert got.data_ptr() == x.data_ptr()
    near(got, want)


@pytest.mark.parametrize("kind", [None, InputKind.LAYER_NORM, InputKind.SILU_GATED])
def test_prologues_are_applied_alone_in_fp32(kind: InputKind | None) -> None:
    x = normal(ROWS, COLUMNS, dtype=torch.bfloat16)
    if kind is None:
        prologue = IDENTITY
    else:
        weights = normal(2, COLUMNS, seed=1)
        prologue = Elementwise(row_input(kind, *weights), lambda rows: prepared_rows(kind, rows, *weights))

    got = OPERATIONS.prepare_rows(COLUMNS)(x, prologue)

    assert got.dtype == torch.float32
    near(got, prologue(x.float()))


def test_wide_products_are_not_rounded() -> None:
    rows, weight, bias = (normal(*shape, dtype=torch.bfloat16) for shape in ((4, 64), (9, 64), (9,)))

    got = OPERATIONS.linear().multiply(rows, weight, bias, None, torch.float32)

    torch.testing.assert_close(got, rows.float() @ weight.float().T + bias.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("residual_dtype", DTYPES)
def test_products_are_added_to_the_residual(has_bias: bool, residual_dtype: torch.dtype) -> None:
    rows, weight, bias = (normal(*shape, dtype=torch.bfloat16) for shape in ((4, 64), (9, 64), (9,)))
    residual = normal(4, 9, dtype=residual_dtype)
    want = residual.float() + rows.float() @ weight.float().T + (bias.float() if has_bias else 0.0)

    got = OPERATIONS.linear().multiply(rows, weight, bias if has_bias else None, residual, None)

    assert got.data_ptr() == residual.data_ptr()
    torch.testing.assert_close(got.float(), want, rtol=2**-6, atol=2**-6)
