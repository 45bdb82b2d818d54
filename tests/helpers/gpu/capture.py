"""CUDA graphs without a GPU: what torch.cuda offers for them, recorded and replayed over tensors of the CPU.

A capture records each operator of torch and each Triton kernel with its tensors and numbers. A replay runs the same
over the same memory, so that whatever a GPU's graph freezes is frozen here: numbers of the host, sizes, addresses.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from models.kernels.triton.launch import Grid, Kernel, Launcher, launching_with
from models.system.cuda_graphs import capture_stream
from tests.helpers.gpu.fake_device import waits_for_device

aten = torch.ops.aten
_ALLOCATING = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}


class CaptureError(AssertionError):
    """A capture or a replay does what a GPU would refuse, or would compute wrongly without a word."""


class _Outside:
    """A tensor that was not allocated during the capture: a graph knows its address, and does not keep it alive."""

    def __init__(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self._storage, self._address = StorageWeakRef(storage), storage.data_ptr()
        self._dtype, self._shape = tensor.dtype, (tensor.storage_offset(), tensor.shape, tensor.stride())

    def tensor(self) -> torch.Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        if storage is None or storage.data_ptr() != self._address:
            raise CaptureError("memory that a graph uses was freed or has moved since the capture")
        return torch.empty(0, dtype=self._dtype).set_(storage, *self._shape)


class SimulatedGraph:
    """Stands for torch.cuda.CUDAGraph. num_calls: operators and kernels of a replay."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self.own: set[int] = set()  # addresses of storages that the capture allocated
        self._kept: list[torch.Tensor] = []

    @property
    def num_calls(self) -> int:
        return len(self._calls)

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    @torch.inference_mode()
    def replay(self) -> None:
        for call in self._calls:
            call()

    def operator(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Record a call with its result."""
        inputs = self._frozen((args, kwargs))
        for tensor in _tensors(result):
            if all(not _same_storage(tensor, each) for each in _tensors((args, kwargs))):
                self.own.add(tensor.untyped_storage().data_ptr())
                self._kept.append(tensor)

        def call() -> None:
            if func.overloadpacket in _ALLOCATING:
                for tensor in _tensors(result):
                    tensor.fill_(float("nan") if tensor.is_floating_point() else 77)  # whatever was there
                return
            args, kwargs = _thawed(inputs)
            for old, new in zip(_tensors(result), _tensors(func(*args, **kwargs)), strict=True):
                if old.shape != new.shape:
                    raise CaptureError(f"{func} gives {tuple(new.shape)}, and gave {tuple(old.shape)} when captured")
                if not _same_storage(old, new):
                    old.copy_(new)

        self._calls.append(call)

    def launch(self, launcher: Launcher, kernel: Kernel, grid: Grid, args: Any, meta: Any) -> None:
        """Record the launch of a kernel."""
        inputs = self._frozen((args, meta))
        self._calls.append(lambda: launcher(kernel, grid, *_thawed(inputs)))

    def _frozen(self, value: Any) -> Any:
        return _mapped(
            value, lambda tensor: tensor if tensor.untyped_storage().data_ptr() in self.own else _Outside(tensor)
        )


class _Stream:
    """Stands for torch.cuda.Stream. ran: operators and kernels that were computed on it, and not only captured."""

    def __init__(self) -> None:
        self.ran: set[object] = set()

    def wait_stream(self, other: "_Stream") -> None:
        """Do nothing: a CPU computes in order."""

    def check(self, call: object) -> None:
        """Refuse a capture of what did not run before: it is not compiled, or a library has no memory for it."""
        if call not in self.ran:
            raise CaptureError(f"{call} runs for the first time in a capture")


class _Recorder(TorchDispatchMode):
    """Records a graph's operators; without a graph, notes that the stream ran them."""

    def __init__(self, stream: _Stream, graph: SimulatedGraph | None = None) -> None:
        super().__init__()
        self._stream, self._graph = stream, graph

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
        if func.namespace == "aten" and is_composite:
            with self:  # torch.inference_mode leaves it whole
                return func.decompose(*args, **kwargs)
        if self._graph is None:
            self._stream.ran.add(func)
            return func(*args, **kwargs)
        if func.overloadpacket is aten.lift_fresh:
            raise CaptureError("a tensor of the host's numbers is made during a capture, which freezes them")
        if waits_for_device(func, args, kwargs):
            raise CaptureError(f"{func} waits for the device during a capture")
        if not func.is_view:
            self._stream.check(func)
        result = func(*args, **kwargs)
        self._graph.operator(func, args, kwargs, result)
        return result


@contextlib.contextmanager
def simulated_graphs(launcher: Launcher) -> Iterator[list[SimulatedGraph]]:
    """Answer in place of torch.cuda about graphs and streams inside the context, with tensors on the CPU. Returns the
    captured graphs as they come. launcher: runs Triton kernels."""
    graphs: list[SimulatedGraph] = []
    current = _Stream()

    def compute(kernel: Kernel, grid: Grid, args: tuple[Any, ...], meta: dict[str, Any]) -> None:
        with _disable_current_modes():
            launcher(kernel, grid, args, meta)

    @contextlib.contextmanager
    def on_stream(stream: _Stream) -> Iterator[None]:
        def run(kernel: Kernel, grid: Grid, args: tuple[Any, ...], meta: dict[str, Any]) -> None:
            compute(kernel, grid, args, meta)
            stream.ran.add(_compiled(kernel, meta))

        nonlocal current
        before, current = current, stream
        try:
            with launching_with(run), _Recorder(stream):
                yield
        finally:
            current = before

    @contextlib.contextmanager
    def capture(graph: SimulatedGraph, *, stream: _Stream, **_options: Any) -> Iterator[None]:
        def record(kernel: Kernel, grid: Grid, args: tuple[Any, ...], meta: dict[str, Any]) -> None:
            stream.check(_compiled(kernel, meta))
            compute(kernel, grid, args, meta)
            graph.launch(launcher, kernel, grid, args, meta)

        nonlocal current
        before, current = current, stream
        graphs.append(graph)
        with _disable_current_modes(), launching_with(record), _Recorder(stream, graph):
            yield
        current = before  # not after an error, as in torch if a capture cannot be ended

    def reserved(_device: torch.device) -> int:
        return sum(each.untyped_storage().nbytes() for graph in graphs for each in graph._kept)

    capture_stream.cache_clear()
    with pytest.MonkeyPatch.context() as patch, launching_with(launcher):
        patch.setattr(torch.cuda, "CUDAGraph", SimulatedGraph)
        patch.setattr(torch.cuda, "graph", capture)
        patch.setattr(torch.cuda, "Stream", lambda _device: _Stream())
        patch.setattr(torch.cuda, "current_stream", lambda _device: current)
        patch.setattr(torch.cuda, "stream", on_stream)
        patch.setattr(torch.cuda, "memory_reserved", reserved)
        yield graphs
    capture_stream.cache_clear()


def _compiled(kernel: Kernel, meta: dict[str, Any]) -> object:
    """Return what distinguishes a kernel's compilations: itself and its constants."""
    return kernel, repr(sorted(meta.items()))


def _same_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _thawed(value: Any) -> Any:
    return _mapped(value, lambda each: each.tensor() if isinstance(each, _Outside) else each)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a structure with its tensors, or what stands for them, changed."""
    if isinstance(value, torch.Tensor | _Outside):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_mapped(each, change) for each in value)
    return value


def _tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    _mapped(value, lambda each: found.append(each) or each)
    return found
