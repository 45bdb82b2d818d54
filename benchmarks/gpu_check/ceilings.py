"""Stage "ceilings": the most that this device can do, to which all other figures are compared."""

import time
from collections.abc import Iterator

import torch

from benchmarks.gpu_check.figures import Figure
from benchmarks.gpu_check.stages import Context
from benchmarks.gpu_check.timing import seconds_of

_LAUNCHES = 1000


def ceilings(context: Context) -> Iterator[Figure]:
    device = context.device
    yield from _bandwidth(context)
    side = 256 if context.is_tiny else 8192
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        rate = 2 * side**3 / seconds_of(context, lambda a=a, b=b: a @ b) / 1e12  # type: ignore[misc]
        yield Figure(f"product in {str(dtype).removeprefix('torch.')}", rate, "TFLOP/s")
    yield Figure("launch of a small operator", _launch_us(context), "us")
    if device.type == "cuda":
        yield from _cuda_only(context, side)


def _bandwidth(context: Context) -> Iterator[Figure]:
    size = 1 << 22 if context.is_tiny else 4 << 30
    words = torch.ones(size // 4, dtype=torch.float32, device=context.device)
    copy = torch.empty_like(words)
    limit = None if context.is_tiny else 2.8
    yield Figure("read", size / seconds_of(context, words.sum) / 1e12, "TB/s", limit=limit)
    yield Figure("copy", 2 * size / seconds_of(context, lambda: copy.copy_(words)) / 1e12, "TB/s")


def _launch_us(context: Context) -> float:
    """Return the microseconds of the host for one operator."""
    x = torch.zeros(1, device=context.device)
    x.add_(1)
    context.synchronize()
    began_s = time.perf_counter()
    for _ in range(_LAUNCHES):
        x.add_(1)
    spent_s = time.perf_counter() - began_s
    context.synchronize()
    return spent_s / _LAUNCHES * 1e6


def _cuda_only(context: Context, side: int) -> Iterator[Figure]:
    """Yield the rate of fp8 products, the time of an operator in a graph, and of a small copy to and from the host."""
    device = context.device
    a = torch.randn(side, side, device=device).to(torch.float8_e4m3fn)
    one = torch.ones((), device=device)
    fp8 = seconds_of(context, lambda: torch._scaled_mm(a, a.t(), one, one, out_dtype=torch.bfloat16))
    yield Figure("product in fp8", 2 * side**3 / fp8 / 1e12, "TFLOP/s")
    x, graph = torch.zeros(1, device=device), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_LAUNCHES):
            x.add_(1)
    yield Figure("operator in a graph", seconds_of(context, graph.replay) / _LAUNCHES * 1e6, "us", 2.0, False)
    pinned = torch.zeros(1024, dtype=torch.int64, pin_memory=True)
    target = torch.zeros(1024, dtype=torch.int64, device=device)
    yield Figure(
        "8 KiB to the device", seconds_of(context, lambda: target.copy_(pinned, non_blocking=True)) * 1e6, "us"
    )
    yield Figure("8 KiB to the host", seconds_of(context, lambda: pinned.copy_(target, non_blocking=True)) * 1e6, "us")
