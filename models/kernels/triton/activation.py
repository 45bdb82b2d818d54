"""Activations between two linear layers, act(gate) * up of rows [gate | up] in one kernel, and gates of rows (Triton).

All numbers are computed in fp32, and rounded once.
"""

import torch
import triton
import triton.language as tl

from models.kernels.row_input import InputKind, RowInput
from models.kernels.triton.launch import launch

_SILU = tl.constexpr(int(InputKind.SILU))
_GELU = tl.constexpr(int(InputKind.GELU))
_GELU_TANH = tl.constexpr(int(InputKind.GELU_TANH))
_GELU_QUICK = tl.constexpr(int(InputKind.GELU_QUICK))
_RELU = tl.constexpr(int(InputKind.RELU))
_RELU_SQUARED = tl.constexpr(int(InputKind.RELU_SQUARED))
_SWIGLU_CLAMPED = tl.constexpr(int(InputKind.SWIGLU_CLAMPED))
_SILU_GATED_SCALED = tl.constexpr(int(InputKind.SILU_GATED_SCALED))
_XIELU = tl.constexpr(int(InputKind.XIELU))
_TANH = tl.constexpr(int(InputKind.TANH))
_SIGMOID = tl.constexpr(int(InputKind.SIGMOID))

_BLOCK = 1024
_GATED = "_GATED"
# Gated kind -> the activation of its gate.
_UNGATED = {kind: InputKind[kind.name.removesuffix(_GATED)] for kind in InputKind if kind.name.endswith(_GATED)}


@triton.jit
def _activated(x, numbers, KIND: tl.constexpr):
    """Compute act(x) in fp32. numbers: xIELU's parameters."""
    if KIND == _SILU:
        y = x * tl.sigmoid(x)
    elif KIND == _GELU:
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == _GELU_TANH:
        # (1 + tanh(u)) / 2 = sigmoid(2 u)
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif KIND == _GELU_QUICK:
        y = x * tl.sigmoid(1.702 * x)
    elif KIND == _RELU:
        y = tl.where(x <= 0.0, 0.0, x)  # NaN stays
    elif KIND == _RELU_SQUARED:
        y = tl.where(x <= 0.0, 0.0, x * x)
    elif KIND == _TANH:
        y = 2.0 * tl.sigmoid(2.0 * x) - 1.0
    elif KIND == _SIGMOID:
        y = tl.sigmoid(x)
    else:
        tl.static_assert(KIND == _XIELU)
        above, below, beta, eps = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 3)
        y = tl.where(x > 0.0, above * x * x, below * (tl.exp(tl.where(x < eps, x, eps)) - 1.0 - x)) + beta * x
    return y


@triton.jit
def activation_kernel(
    x,  # [T, columns], or [T, 2 * columns] of a gate and up
    numbers,  # xIELU's
    out,  # [T, columns], contiguous
    first,  # alpha or the gate's scale
    second,  # limit or the output's scale
    x_row,
    columns,
    KIND: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = act(x), or act(gate) * up. Grid: (T, blocks of columns)."""
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    gate = tl.load(x + row * x_row + at, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        up = tl.load(x + row * x_row + columns + at, mask=inside, other=0.0).to(tl.float32)
        if KIND == _SWIGLU_CLAMPED:
            gate = tl.where(gate > second, second, gate)
            up = tl.where(up > second, second, tl.where(up < -second, -second, up))
            y = gate * tl.sigmoid(first * gate) * (up + 1.0)
        elif KIND == _SILU_GATED_SCALED:
            gate *= first
            y = second * gate * tl.sigmoid(gate) * up
        else:
            y = _activated(gate, numbers, KIND) * up
    else:
        y = _activated(gate, numbers, KIND)
    tl.store(out + row * columns + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gate_kernel(x, gate, x_row, gate_row, columns, columns_each, BLOCK: tl.constexpr):
    """x [T, columns] *= sigmoid(gate [T, columns / columns_each]). Grid: (T, blocks of columns)."""
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    rows = tl.load(x + row * x_row + at, mask=inside, other=0.0).to(tl.float32)
    gates = tl.load(gate + row * gate_row + at // columns_each, mask=inside, other=0.0).to(tl.float32)
    tl.store(x + row * x_row + at, (rows * tl.sigmoid(gates)).to(x.dtype.element_ty), mask=inside)


def activate_rows(x: torch.Tensor, activation: RowInput, dtype: torch.dtype) -> torch.Tensor:
    """Return the activation of rows x [T, columns], or [T, 2 * columns] if it is gated, in `dtype`: [T, columns]."""
    assert x.stride(1) == 1
    columns = x.shape[1] // (2 if activation.is_gated else 1)
    out = torch.empty(len(x), columns, dtype=dtype, device=x.device)
    first, second = activation.numbers
    launch(
        activation_kernel,
        (len(x), triton.cdiv(columns, _BLOCK)),
        *(x, activation.weight if activation.kind is InputKind.XIELU else None, out),
        *(first, second, x.stride(0), columns),
        KIND=int(_UNGATED.get(activation.kind, activation.kind)),
        GATED=activation.is_gated,
        BLOCK=_BLOCK,
        num_warps=4,
    )
    return out


def gate_rows(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Multiply x [T, K] by sigmoid(gate [T, G]) in place, each gate for K / G neighbors, and return it."""
    assert x.stride(1) == gate.stride(1) == 1
    columns = x.shape[1]
    launch(
        gate_kernel,
        (len(x), triton.cdiv(columns, _BLOCK)),
        *(x, gate, x.stride(0), gate.stride(0), columns, columns // gate.shape[1]),
        BLOCK=_BLOCK,
        num_warps=4,
    )
    return x
