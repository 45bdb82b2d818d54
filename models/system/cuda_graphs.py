"""CudaGraphs: sequences of launches on a CUDA device that are captured once, and replayed without Python in between."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch


class Graph(NamedTuple):
    """A captured function: `replay` runs it again over the same memory, and so writes `result` anew."""

    replay: Callable[[], None]
    result: torch.Tensor


class CudaGraphs:
    """Captures functions on a device. All graphs share a pool of memory: a result is valid until the next replay.

    pool_bytes: memory that only graphs use.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool_bytes = 0
        self._pool: tuple[int, int] | None = None

    def capture(self, run: Callable[[], torch.Tensor]) -> Graph:
        """Run a function twice, on `capture_stream`: to compile its kernels and allocate what libraries keep, and to
        capture it.

        It must neither wait for the device nor copy from the host. Memory that it did not allocate must stay where it
        is while the graph is in use.
        """
        own, stream = torch.cuda.current_stream(self.device), capture_stream(self.device)
        stream.wait_stream(own)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(stream):  # torch.cuda.graph does not restore the stream if a capture's end fails
                run()
                # Other threads may use the device meanwhile: what they do is not captured.
                with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                    before = torch.cuda.memory_reserved(self.device)  # what is free was returned to the device before
                    result = run()
        finally:
            own.wait_stream(stream)  # after an error, too: the first run reads memory that the next step overwrites
        self.pool_bytes += max(0, torch.cuda.memory_reserved(self.device) - before)
        self._pool = graph.pool()
        return Graph(graph.replay, result)


@functools.cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all captures on a device. There is only one, since cuBLAS keeps memory for each stream."""
    return torch.cuda.Stream(device)


def graphs_of(device: torch.device) -> CudaGraphs | None:
    """Return the graphs of a CUDA device; None for the host."""
    return CudaGraphs(device) if device.type == "cuda" else None
