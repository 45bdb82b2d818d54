"""Compilation for GPUs that are not there: what the tests read in machine code, and faults that it shows."""

import pytest
import torch
import triton
import triton.language as tl

from models.kernels.triton.launch import launch
from tests.helpers.gpu.compile import Launch, compiled, launches


@triton.jit
def _multiply(a, b, out, K, M: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr):
    """out [M, N] = a [M, K] b [K, N]. Grid: 1."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, BLOCK_K)
    total = tl.zeros((M, N), dtype=tl.float32)
    for first in range(0, K, BLOCK_K):
        left = tl.load(a + m[:, None] * K + (first + k)[None, :])
        right = tl.load(b + (first + k)[:, None] * N + n[None, :])
        total = tl.dot(left, right, total)
    tl.store(out + m[:, None] * N + n[None, :], total.to(out.dtype.element_ty))


def _launch(m: int, n: int, k: int = 512, *, offset: int = 0, **meta: int) -> Launch:
    a = torch.empty(m * k + offset, dtype=torch.bfloat16, device="meta")[offset:]
    b, out = (torch.empty(*sizes, dtype=torch.bfloat16, device="meta") for sizes in ((k, n), (m, n)))
    [found] = launches(lambda: launch(_multiply, (1,), a, b, out, k, M=m, N=n, BLOCK_K=64, **meta))
    return found


@pytest.mark.parametrize(("sm", "opcode"), [(80, "HMMA"), (90, "HGMMA"), (100, "UTCHMMA")])
def test_tensor_cores_are_used(sm: int, opcode: str) -> None:
    code = compiled(_launch(64, 64, num_warps=4), sm)
    code.check()
    assert code.count(opcode) > 0
    assert code.count(r"LDGSTS\.E.*\.128") > 0


def test_a_tensor_that_begins_anywhere_is_not_read_by_16_bytes() -> None:
    code = compiled(_launch(64, 64, offset=1, num_warps=4), 90)
    aligned = compiled(_launch(64, 64, num_warps=4), 90)
    assert code.count(r"LDGSTS\.E.*\.128") < aligned.count(r"LDGSTS\.E.*\.128")


def test_spilled_registers_are_refused() -> None:
    code = compiled(_launch(64, 64, num_warps=4, maxnreg=64), 80)
    with pytest.raises(AssertionError, match="_multiply for sm_80 with 4 warps spills registers"):
        code.check()


def test_too_much_shared_memory_is_refused() -> None:
    code = compiled(_launch(64, 64, num_warps=4, num_stages=12), 80)
    with pytest.raises(AssertionError, match="bytes of shared memory"):
        code.check()


def test_too_many_registers_are_refused() -> None:
    code = compiled(_launch(64, 64, num_warps=4), 90)._replace(num_warps=32, registers=128)
    with pytest.raises(AssertionError, match="needs 131072 registers of 65536"):
        code.check()


def test_an_argument_that_is_missing_is_refused() -> None:
    [found] = launches(lambda: launch(_multiply, (1,), torch.empty(8), M=16, N=16, BLOCK_K=16))
    with pytest.raises(AssertionError, match="_multiply lacks b"):
        compiled(found, 90)
