"""Operations on whole rows, in each column of the table: sums with norms, preparations alone, gates, copies."""

import pytest
import torch
import torch.nn.functional as F

from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.rows import join_rows, prepare_rows
from models.kernels.row_input import IDENTITY, Elementwise, InputKind, RowInput
from tests.models.kernels.conftest import Column
from tests.models.kernels.test_quantized_linear import prepared_rows, row_input

COLUMNS, ROWS = 144, 37


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("kind", list(InputKind))
def test_rows_are_prepared_in_fp32(kernels: KernelLibrary, kind: InputKind) -> None:
    scale, shift = normal(2, COLUMNS, seed=1)
    prepare = row_input(kind, scale, shift)
    x = normal(ROWS, COLUMNS * (2 if prepare.is_gated else 1) + 16)[:, :-16] * 3  # strided rows, far into the tails

    got = prepare_rows(x, prepare, library=kernels)

    torch.testing.assert_close(got, prepared_rows(kind, x, scale, shift), rtol=1e-5, atol=2e-6)


def norm_of(kind: InputKind | None, scale: torch.Tensor, shift: torch.Tensor) -> Elementwise:
    """A norm with the given weight and bias."""
    if kind is None:
        return IDENTITY
    return Elementwise(row_input(kind, scale, shift), lambda x: prepared_rows(kind, x, scale, shift))


@pytest.mark.parametrize("norms_sum", [False, True])
@pytest.mark.parametrize("kind", [None, InputKind.RMS_NORM, InputKind.LAYER_NORM])
@pytest.mark.parametrize(("dtype", "y_dtype"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)])
def test_rows_are_joined(
    column: Column, kind: InputKind | None, norms_sum: bool, dtype: torch.dtype, y_dtype: torch.dtype
) -> None:
    norm = norm_of(kind, *normal(2, COLUMNS, seed=1))
    x, y = normal(ROWS, COLUMNS, dtype=dtype), normal(ROWS, COLUMNS, seed=2, dtype=y_dtype)
    wide = y.float()
    want = norm(1.5 * x.float() + 0.7 * wide) if norms_sum else 1.5 * x.float() + 0.7 * norm(wide)

    got = column(torch.bfloat16).join_rows(COLUMNS)(x, y, norm, skip=1.5, scale=0.7, norms_sum=norms_sum)

    assert got.dtype == dtype
    tolerance = 2**-6 if torch.bfloat16 in (dtype, y_dtype) else 1e-5  # torch rounds each product
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("norms_sum", [False, True])
@pytest.mark.parametrize("kind", [None, InputKind.RMS_NORM, InputKind.LAYER_NORM])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_joined_in_place_and_rounded_once(
    kernels: KernelLibrary, kind: InputKind | None, norms_sum: bool, dtype: torch.dtype
) -> None:
    norm = norm_of(kind, *normal(2, COLUMNS, seed=1))
    x, y = normal(ROWS, COLUMNS, dtype=dtype), normal(ROWS, COLUMNS, seed=2)
    want = norm(1.5 * x.float() + 0.7 * y) if norms_sum else 1.5 * x.float() + 0.7 * norm(y)

    got = join_rows(x, y, norm, skip=1.5, scale=0.7, norms_sum=norms_sum, library=kernels)

    assert got.data_ptr() == x.data_ptr()
    tolerance = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=1e-5)


@pytest.mark.parametrize("columns_each", [1, 48, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_gated(column: Column, columns_each: int, dtype: torch.dtype) -> None:
    both = normal(ROWS, 2, 9 * 16, dtype=dtype)
    x, gate = both[:, 0].clone(), both[:, 1, : 9 * 16 // columns_each]
    want = x.float() * torch.sigmoid(gate.float()).repeat_interleave(columns_each, dim=1)

    got = column(dtype).gate_rows(9 * 16 if columns_each == 1 else columns_each)(x, gate)

    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prologues_are_applied_alone(column: Column, dtype: torch.dtype) -> None:
    x = normal(ROWS, COLUMNS, dtype=dtype)
    prologue = Elementwise(RowInput(InputKind.SILU), F.silu)

    got = column(dtype).prepare_rows(COLUMNS)(x, prologue)

    torch.testing.assert_close(got, F.silu(x.float()), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_bounded(column: Column, dtype: torch.dtype) -> None:
    x = normal(ROWS, COLUMNS, dtype=dtype)
    x[3, 5] = torch.nan
    want = x.clamp(-0.5, 0.5)

    got = column(dtype).bound_rows(COLUMNS)(x, 0.5)

    torch.testing.assert_close(got, want, rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_heads_are_copied(column: Column, dtype: torch.dtype) -> None:
    x, out = normal(ROWS, 3, 80, dtype=dtype)[..., 16:48], torch.zeros(ROWS, 3, 112, dtype=dtype)

    column(dtype).copy_heads(32)(x, out[..., 64:96])

    assert torch.equal(out[..., 64:96], x)
    assert not out[..., :64].any()
    assert not out[..., 96:].any()


def test_exact_gelu_is_exact_in_the_tails(kernels: KernelLibrary) -> None:
    x = torch.linspace(-12.0, 12.0, 4800).view(1, -1)
    got = prepare_rows(x, RowInput(InputKind.GELU), library=kernels)
    torch.testing.assert_close(got.double(), F.gelu(x.double()), rtol=0.0, atol=1e-6)
