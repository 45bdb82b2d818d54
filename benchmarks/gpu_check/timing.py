"""seconds_of: the time of a piece of work on a device."""

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.gpu_check.stages import Context


def seconds_of(context: Context, work: Callable[[], object], repeats: int = 20) -> float:
    """Return the median seconds of `work`, measured by the device's own clock on a GPU. It runs twice before."""
    repeats = 2 if context.is_tiny else repeats
    for _ in range(2):
        work()
    context.synchronize()
    if context.device.type != "cuda":
        return statistics.median(_host_seconds(work) for _ in range(repeats))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        start.record()
        work()
        end.record()
    context.synchronize()
    return statistics.median(start.elapsed_time(end) / 1000 for start, end in events)


def _host_seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s
