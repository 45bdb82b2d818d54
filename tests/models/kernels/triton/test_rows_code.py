"""Machine code of the kernels for norms, activations and heads: 16 bytes a load, and no spilled registers."""

import pytest
import torch

from models.kernels.row_input import Elementwise, InputKind
from models.kernels.triton.activation import activate_rows, gate_rows
from models.kernels.triton.norm import norm_rows
from models.kernels.triton.operations import TritonOperations
from models.kernels.triton.rope_write import rope_write
from tests.helpers.gpu.compile import compiled, launches
from tests.models.kernels.test_quantized_linear import row_input
from tests.models.kernels.test_rows import normal

NORMS = [InputKind.RMS_NORM, InputKind.LAYER_NORM]
OPERATIONS = TritonOperations(torch.device("cpu"))


def test_rows_are_read_by_16_bytes() -> None:
    x, wide = (torch.empty(8, size, dtype=torch.bfloat16, device="meta") for size in (4096, 2 * 12288))
    weight = torch.empty(4096, device="meta")
    norm = row_input(InputKind.RMS_NORM, weight, weight)
    for launch in (
        *launches(lambda: norm_rows(x, norm, torch.bfloat16)),
        *launches(lambda: activate_rows(wide, row_input(InputKind.SILU_GATED, weight, weight), torch.bfloat16)),
    ):
        code = compiled(launch, 90)
        code.check()
        assert code.count(r"LDG\.E.*\.128") > 0
        assert code.count(r"STG\.E.*\.128") > 0


@pytest.mark.long
@pytest.mark.parametrize("sm", [80, 90, 100])
@pytest.mark.parametrize("columns", [2560, 8192, 1 << 14])
def test_kernels_of_rows_compile_without_spills(columns: int, sm: int) -> None:
    x, weight = torch.empty(8, columns, dtype=torch.bfloat16, device="meta"), torch.empty(columns, device="meta")
    join = OPERATIONS.join_rows(columns)
    for kind in NORMS:
        norm = row_input(kind, weight, weight)
        prologue = Elementwise(norm, lambda rows: rows)
        found = launches(lambda norm=norm: norm_rows(x, norm, torch.bfloat16))
        for norms_sum in (False, True):
            found += launches(lambda prologue=prologue, norms_sum=norms_sum: join(x, x, prologue, norms_sum=norms_sum))
        for launch in found:
            compiled(launch, sm).check()
    for launch in launches(lambda: gate_rows(x, x)):
        compiled(launch, sm).check()


@pytest.mark.long
@pytest.mark.parametrize("sm", [80, 90])
@pytest.mark.parametrize("kind", [kind for kind in InputKind if kind not in (*NORMS, InputKind.PLAIN)])
def test_activations_compile_without_spills(kind: InputKind, sm: int) -> None:
    prepare = row_input(kind, *normal(2, 16))
    x = torch.empty(8, 8192, dtype=torch.bfloat16, device="meta")
    for launch in launches(lambda: activate_rows(x, prepare, torch.bfloat16)):
        compiled(launch, sm).check()


def written(size: int, half: int, kind: InputKind | None, dtype: torch.dtype) -> None:
    """Launch the kernel with the heads of a real model, on the device "meta"."""
    q, k = (torch.empty(8, heads, size, dtype=dtype, device="meta") for heads in (32, 8))
    cache = torch.empty(64, 2, 8, 16, size, dtype=dtype, device="meta")
    angle = torch.empty(8, half, device="meta")
    weight = torch.empty(size, device="meta")
    norm = None if kind is None else row_input(kind, weight, weight)
    slots = torch.empty(8, dtype=torch.int64, device="meta")
    norms = None if norm is None else (norm, norm)
    rope_write(q, k, k, cache[:, 0], cache[:, 1], slots, (angle, angle), norms=norms)


def test_heads_are_read_and_written_by_16_bytes() -> None:
    for launch in launches(lambda: written(128, 64, InputKind.RMS_NORM, torch.bfloat16)):
        code = compiled(launch, 90)
        code.check()
        assert code.count(r"LDG\.E.*\.128") > 0
        assert code.count(r"STG\.E.*\.128") > 0


@pytest.mark.long
@pytest.mark.parametrize("sm", [80, 90, 100])
@pytest.mark.parametrize("kind", [None, InputKind.RMS_NORM, InputKind.LAYER_NORM])
@pytest.mark.parametrize(("size", "half"), [(64, 32), (80, 16), (96, 48), (128, 64), (256, 64), (256, 128)])
def test_kernel_compiles_without_spills(size: int, half: int, kind: InputKind | None, sm: int) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        for launch in launches(lambda dtype=dtype: written(size, half, kind, dtype)):
            compiled(launch, sm).check()
