"""Row operations against torch."""

import pytest
import torch
import torch.nn.functional as F

from models.kernels.cpu.library import KernelLibrary
from models.kernels.row_input import InputKind, RowInput
from models.kernels.row_ops import argmax_rows, prepare_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("kind", list(InputKind))
def test_prepared_rows_equal_torch(kernels: KernelLibrary, kind: InputKind, rows: int, dtype: torch.dtype) -> None:
    columns = 272
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(rows, 2 * columns, generator=generator)
        .mul(4)
        .add(100 if kind == InputKind.LAYER_NORM else 0)
        .to(dtype)
    )
    scale, shift = torch.rand(2, columns, generator=generator)
    gate, up = x.float()[:, :columns], x.float()[:, columns:]
    want, parameters = {
        InputKind.PLAIN: lambda: (gate, {}),
        InputKind.RMS_NORM: lambda: (F.rms_norm(gate, (columns,), scale, 1e-5), {"weight": scale}),
        InputKind.LAYER_NORM: lambda: (
            F.layer_norm(gate, (columns,), scale, shift, 1e-5),
            {"weight": scale, "bias": shift},
        ),
        InputKind.SILU_GATED: lambda: (F.silu(gate) * up, {}),
        InputKind.GELU_TANH_GATED: lambda: (F.gelu(gate, approximate="tanh") * up, {}),
        InputKind.GELU_TANH: lambda: (F.gelu(gate, approximate="tanh"), {}),
        InputKind.SILU: lambda: (F.silu(gate), {}),
    }[kind]()
    prepare = RowInput(kind, eps=1e-5, **parameters)
    got = prepare_rows(x if prepare.is_gated else x[:, :columns], prepare, library=kernels)
    tolerance = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(got.float(), want, atol=tolerance, rtol=tolerance)


def test_activations_survive_large_values(kernels: KernelLibrary) -> None:
    x = torch.tensor([-1e30, -1e4, -90.0, 90.0, 1e4, 1e30] + [0.0] * 10).unsqueeze(0)
    gated = torch.cat((x, torch.ones_like(x)), dim=1)
    got = prepare_rows(gated, RowInput(InputKind.SILU_GATED), library=kernels)
    torch.testing.assert_close(got, F.silu(x), atol=1e-5, rtol=1e-5)
    got = prepare_rows(x[:, :].clamp(-1e4, 1e4), RowInput(InputKind.GELU_TANH), library=kernels)
    torch.testing.assert_close(got, F.gelu(x.clamp(-1e4, 1e4), approximate="tanh"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 15), (5, 1000), (9, 49153)])
def test_argmax_finds_the_first_largest(kernels: KernelLibrary, rows: int, columns: int) -> None:
    logits = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).mul(4).round()  # many ties
    logits[0, : columns // 2] = float("nan")
    want = torch.stack([(row == row.nan_to_num(nan=-1e9).max()).nonzero()[0, 0] for row in logits])
    assert torch.equal(argmax_rows(logits, library=kernels), want)
    padded = torch.full((rows, columns + 3), 1e9)
    padded[:, :columns] = logits
    assert torch.equal(argmax_rows(padded[:, :columns], library=kernels), want)
