"""Triton's interpreter: runs kernels on CPU tensors, one program after another, and watches their memory.

Triton interprets kernels where the environment has TRITON_INTERPRET=1 when they are defined. Here it is chosen for each
launch instead, so that a process can interpret a kernel and compile it for a GPU, and other tests notice nothing. Two
faults of Triton's are mended: products of bf16 are computed of the bits, and functions called by a kernel leave
`triton.language` changed.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle
from triton.runtime.jit import JITFunction

from models.kernels.triton.launch import Grid, Kernel, launching_with
from tests.helpers.gpu.memory import WatchedMemory

_create_dot = InterpreterBuilder.create_dot
_masked_load, _masked_store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
_atomic_rmw = InterpreterBuilder.create_atomic_rmw


@contextmanager
def interpreting() -> Iterator[None]:
    """Interpret what is launched inside the context. Tensors are on the CPU.

    Raises AssertionError where a kernel reads or writes outside of its tensors, or where a program reads or writes what
    another one of the launch writes: on a GPU they run at the same time.
    """
    with _patched_language(), launching_with(interpret):
        yield


def interpret(kernel: Kernel, grid: Grid, args: tuple[Any, ...], meta: dict[str, Any]) -> None:
    """Run a launch by the interpreter; a Launcher, inside `interpreting`."""
    assert isinstance(kernel, JITFunction), f"{kernel} is not decorated by triton.jit"
    memory = WatchedMemory([arg for arg in (*args, *meta.values()) if isinstance(arg, torch.Tensor)])
    try:
        with _watched(memory):
            _interpreted(kernel.fn)[grid](*args, **meta)
    except interpreter.InterpreterError as error:
        if memory.fault is not None:
            raise AssertionError(f"{kernel.fn.__name__}: {memory.fault}") from error
        raise


@functools.cache
def _interpreted(function: Callable[..., Any]) -> InterpretedFunction[Any]:
    return InterpretedFunction(function)


@contextmanager
def _patched_language() -> Iterator[None]:
    """Let `triton.language` compute by numpy, for kernels and the functions that they call."""
    scope = interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    try:
        with (
            triton.knobs.runtime.scope(),
            patch.object(interpreter, "_patch_lang", lambda _function: SimpleNamespace(restore=lambda: None)),
            patch.object(JITFunction, "__call__", lambda self, *args, **kw: _interpreted(self.fn)(*args, **kw)),
            patch.object(InterpreterBuilder, "create_dot", _dot),
        ):
            triton.knobs.runtime.interpret = True
            yield
    finally:
        scope.restore()


def _dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *others: Any) -> TensorHandle:
    return _create_dot(self, _widened(a), _widened(b), *others)


def _widened(operand: TensorHandle) -> TensorHandle:
    """Return a bf16 operand in fp32: the interpreter holds bf16 as uint16, and would multiply the bits."""
    if operand.dtype.scalar != tl.bfloat16:
        return operand
    return TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


@contextmanager
def _watched(memory: WatchedMemory) -> Iterator[None]:
    def program(builder: InterpreterBuilder) -> int:
        (x, y, z), (_, num_y, num_z) = builder.grid_idx, builder.grid_dim
        return int((x * num_y + y) * num_z + z)

    def load(self: InterpreterBuilder, ptrs: TensorHandle, mask: TensorHandle, *others: Any) -> TensorHandle:
        memory.read(program(self), ptrs.data, mask.data, ptrs.get_element_ty().primitive_bitwidth // 8)
        return _masked_load(self, ptrs, mask, *others)

    def store(self: InterpreterBuilder, ptrs: TensorHandle, value: TensorHandle, mask: TensorHandle, *rest: Any) -> Any:
        memory.write(program(self), ptrs.data, mask.data, ptrs.get_element_ty().primitive_bitwidth // 8)
        return _masked_store(self, ptrs, value, mask, *rest)

    def rmw(self: InterpreterBuilder, op: Any, ptr: TensorHandle, val: Any, mask: TensorHandle, *rest: Any) -> Any:
        memory.check_bounds(ptr.data, mask.data, ptr.get_element_ty().primitive_bitwidth // 8)
        return _atomic_rmw(self, op, ptr, val, mask, *rest)

    with (
        patch.object(InterpreterBuilder, "create_masked_load", load),
        patch.object(InterpreterBuilder, "create_masked_store", store),
        patch.object(InterpreterBuilder, "create_atomic_rmw", rmw),
    ):
        yield
