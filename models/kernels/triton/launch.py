"""Launch of Triton kernels: one function for all, so that launches can be recorded, interpreted or only checked.

This file imports no triton. Files beside it that define kernels do, and are imported where a GPU is used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

Grid = tuple[int, ...]


class Kernel(Protocol):
    """A function decorated by `triton.jit`."""

    def __getitem__(self, grid: Grid) -> Callable[..., object]:
        """Return the kernel bound to a grid of programs."""


# (kernel, grid, args, meta) -> None: runs or records a launch.
Launcher = Callable[[Kernel, Grid, tuple[Any, ...], dict[str, Any]], None]


def launch(kernel: Kernel, grid: Grid, *args: Any, **meta: Any) -> None:
    """Launch grid[0] * grid[1] * grid[2] programs of a kernel on the current device and stream, without waiting.

    grid: up to three numbers known on the host, so that a captured graph stays valid. args: the kernel's tensors and
    numbers. meta: its constants (`tl.constexpr`), and `num_warps` and `num_stages`.
    """
    _launcher.get()(kernel, grid, args, meta)


@contextmanager
def launching_with(launcher: Launcher) -> Iterator[None]:
    """Pass the launches of this thread to `launcher` inside the context."""
    token = _launcher.set(launcher)
    try:
        yield
    finally:
        _launcher.reset(token)


def run_on_device(kernel: Kernel, grid: Grid, args: tuple[Any, ...], meta: dict[str, Any]) -> None:
    """Launch a kernel by Triton, compiled if it is new. Products and sums fuse: versions differ in their default."""
    kernel[grid](*args, enable_fp_fusion=True, **meta)


_launcher: ContextVar[Launcher] = ContextVar("launcher", default=run_on_device)
