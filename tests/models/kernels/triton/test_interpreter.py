"""Triton's interpreter as the tests use it: results, mended products of bf16, and faults that it refuses."""

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

from models.kernels.triton.launch import launch
from tests.helpers.gpu.interpreter import interpreting


@triton.jit
def _half_of(x):
    return tl.sum(x, axis=0) / 2


@triton.jit
def _halve_rows(x, out, columns, first_row, BLOCK: tl.constexpr):
    """out[r] = sum of x[r] / 2. Grid: rows."""
    row = tl.program_id(0) + first_row
    column = tl.arange(0, BLOCK)
    values = tl.load(x + row * columns + column, mask=column < columns, other=0).to(tl.float32)
    tl.store(out + row, _half_of(values))


@triton.jit
def _multiply(a, b, out, K: tl.constexpr, SIZE: tl.constexpr):
    """out [SIZE, SIZE] fp32 = a [SIZE, K] b [K, SIZE]. Grid: 1."""
    index, k = tl.arange(0, SIZE), tl.arange(0, K)
    left = tl.load(a + index[:, None] * K + k[None, :])
    right = tl.load(b + k[:, None] * SIZE + index[None, :])
    tl.store(out + index[:, None] * SIZE + index[None, :], tl.dot(left, right, input_precision="ieee"))


@triton.jit
def _shift(x, out, STEP: tl.constexpr):
    """out[p] = x[p + STEP]. Grid: elements."""
    tl.store(out + tl.program_id(0), tl.load(x + tl.program_id(0) + STEP))


@triton.jit
def _add_up(x, out):
    """out[0] = sum of x, by one program an element."""
    tl.atomic_add(out, tl.load(x + tl.program_id(0)))


@triton.jit
def _write_zero(out):
    tl.store(out, 0.0)


def test_results_are_those_of_torch() -> None:
    x, out = torch.randn(3, 21), torch.empty(3)
    with interpreting():
        launch(_halve_rows, (3,), x, out, 21, 0, BLOCK=32, num_warps=1)
    torch.testing.assert_close(out, x.sum(1) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_products_are_those_of_torch(dtype: torch.dtype) -> None:
    a, b, out = torch.randn(16, 32).to(dtype), torch.randn(32, 16).to(dtype), torch.empty(16, 16)
    with interpreting():
        launch(_multiply, (1,), a, b, out, K=32, SIZE=16)
    torch.testing.assert_close(out, a.float() @ b.float())


def test_atomic_sums_are_no_race() -> None:
    x, out = torch.randn(5), torch.zeros(1)
    with interpreting():
        launch(_add_up, (5,), x, out)
    torch.testing.assert_close(out[0], x.sum())


@pytest.mark.parametrize("step", [-1, 3])
def test_an_address_out_of_bounds_is_refused(step: int) -> None:
    x, out = torch.randn(6), torch.empty(4)
    with interpreting(), pytest.raises(AssertionError, match="_shift: 1 of 1 addresses are outside of its tensors"):
        launch(_shift, (4,), x, out, STEP=step)


def test_a_masked_address_may_be_out_of_bounds() -> None:
    out = torch.empty(2)
    with interpreting():
        launch(_halve_rows, (2,), torch.ones(2, 3), out, 3, 0, BLOCK=1024)
    assert out.tolist() == [1.5, 1.5]


@pytest.mark.parametrize(("step", "what"), [(-1, "reads what another program writes"), (1, "another program reads")])
def test_a_race_is_refused(step: int, what: str) -> None:
    x = torch.randn(6)
    with interpreting(), pytest.raises(AssertionError, match=f"_shift: program 1 .*{what}"):
        launch(_shift, (4,), x[1:], x[1:], STEP=step)


def test_two_writers_are_refused() -> None:
    with interpreting(), pytest.raises(AssertionError, match="program 1 writes what another program writes"):
        launch(_write_zero, (2,), torch.empty(1))


def test_other_uses_of_triton_notice_nothing() -> None:
    before = {name: vars(module).copy() for name, module in (("tl", tl), ("core", tl.core), ("math", tl.math))}
    before["tensor"] = dict(vars(tl.tensor))
    x, out = torch.randn(3, 21), torch.empty(3)
    with interpreting():
        launch(_halve_rows, (3,), x, out, 21, 0, BLOCK=32)
    after = {"tl": vars(tl), "core": vars(tl.core), "math": vars(tl.math), "tensor": dict(vars(tl.tensor))}
    for name, members in before.items():
        assert after[name] == members, name
    assert not triton.knobs.runtime.interpret
    assert isinstance(_halve_rows, JITFunction)
    with pytest.raises(RuntimeError, match="outside of the scope of a kernel"):
        _half_of(x)
