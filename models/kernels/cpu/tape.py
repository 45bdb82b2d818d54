"""Tapes: sequences of native calls, recorded once and replayed without Python between the calls.

A decode step makes some two hundred native calls of a few microseconds each, and Python takes as long between them. The
calls of two steps with equal numbers of rows and sequences differ only in the contents of their buffers. So such a step
is recorded (function and arguments of each call; results are in a permanent workspace). Later it is replayed in one
call, with new contents in the input buffers.
"""

import ctypes
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Letters of a signature -> C type, and the form of a 64-bit word: p pointer, l int64, i int, f float.
TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}
_WORDS = {"p": "q", "l": "q", "i": "q", "f": "f4x"}
_aten = torch.ops.aten


class Kernel:
    """A native function. Calls by a thread that records a tape are run, and also added to the tape."""

    def __init__(
        self, function: Callable[..., Any], arguments: str, returns: type | None, replay_address: int | None
    ) -> None:
        """arguments: a letter of TYPES for each argument. replay_address: the address of the function's variant that
        tapes call (HR_REPLAYABLE), or None if there is no such variant."""
        function.argtypes = [TYPES[letter] for letter in arguments]  # type: ignore[attr-defined]
        function.restype = returns  # type: ignore[attr-defined]
        self._function = function
        self._words = struct.Struct("=" + "".join(_WORDS[letter] for letter in arguments))
        self.name: str = function.__name__
        self.arguments = arguments
        self.returns = returns
        self.replay_address = replay_address

    def __call__(self, *arguments: int | float | None) -> Any:
        recorder = _recorder  # once: another thread's recording may end meanwhile
        if recorder is not None and recorder.thread_id == threading.get_ident():
            recorder.add(self, arguments)
        return self._function(*arguments)

    def words(self, arguments: Sequence[int | float | None]) -> bytes:
        """Encode the arguments as the 64-bit words that replay.h reads."""
        return self._words.pack(*(0 if argument is None else argument for argument in arguments))


class _Call(ctypes.Structure):
    """struct hr_call of tape.cpp."""

    _fields_ = (("function", ctypes.c_void_p), ("words", ctypes.c_char_p))


class RecordedCall(NamedTuple):
    """A call of a native function, with its arguments."""

    name: str  # of the kernel
    replay_address: int
    words: bytes


class Tape:
    """Recorded native calls. They hold only addresses, so callers must keep weights, inputs and results alive."""

    def __init__(self, calls: Sequence[RecordedCall], workspace: "Workspace", replay: Callable[..., Any]) -> None:
        self._workspace = workspace  # kept alive
        self._recorded = list(calls)  # the C side points into their words
        self._calls = (_Call * len(calls))(*(_Call(call.replay_address, call.words) for call in calls))
        self._replay = replay

    def replay(self) -> None:
        self._replay(ctypes.addressof(self._calls), len(self._calls))

    def replay_each(self, around: Callable[[str], AbstractContextManager[object]]) -> None:
        """Replay the calls one by one, each inside the context around(kernel name), to measure them."""
        size = ctypes.sizeof(_Call)
        for i, call in enumerate(self._recorded):
            with around(call.name):
                self._replay(ctypes.addressof(self._calls) + i * size, 1)


class Workspace:
    """Allocates the intermediate results of recorded calls.

    Tapes may share a workspace if they never run at the same time. A buffer is reused when no tensor uses it any more,
    as in torch's own allocator, but is never freed.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []

    def empty(self, size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        num_bytes = torch.Size(size).numel() * dtype.itemsize
        free = next((b for b in self._buffers if b.nbytes == num_bytes and _num_users(b) == _UNUSED), None)
        if free is None:
            free = torch.empty(num_bytes, dtype=torch.uint8)
            self._buffers.append(free)
        return free.view(dtype).view(size)


class Recording(NamedTuple):
    """The tape that `record` made, or the name of the operator that prevented it."""

    tape: Tape | None
    unrecordable_op: str | None  # the first operator that cannot be replayed; then `tape` is None


def record(run: Callable[[], object], workspace: Workspace, replay: Callable[..., Any]) -> Recording:
    """Call `run`, and return a tape of its native calls; no tape if it also ran operators that cannot be recorded.

    Calls of other threads are not recorded, since those threads may free their buffers.

    run: may make new tensors with torch.empty, new_empty and views; leaves its results in buffers that outlive it.
    """
    global _recorder
    assert _recorder is None, "one recording at a time"
    with _Recorder(workspace) as recorder:
        _recorder = recorder
        try:
            run()
        finally:
            _recorder = None
    if recorder.unrecordable_op is not None:
        return Recording(None, recorder.unrecordable_op)
    return Recording(Tape(recorder.calls, workspace, replay), None)


class _Recorder(TorchDispatchMode):
    """Records the native calls, and detects torch operators that compute."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__()
        self.calls: list[RecordedCall] = []
        self.unrecordable_op: str | None = None
        self.thread_id = threading.get_ident()
        self._workspace = workspace

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, since excluding torch.compile from this mode would import it, which takes half a second."""
        return False

    def add(self, kernel: Kernel, arguments: Sequence[int | float | None]) -> None:
        if kernel.replay_address is None:
            self._note_unrecordable(kernel.name)
        else:
            self.calls.append(RecordedCall(kernel.name, kernel.replay_address, kernel.words(arguments)))

    def _note_unrecordable(self, name: str) -> None:
        self.unrecordable_op = self.unrecordable_op or name

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _aten.empty.memory_format:
            return self._workspace.empty(args[0], kwargs["dtype"])
        if func is _aten.new_empty.default:
            return self._workspace.empty(args[1], kwargs.get("dtype") or args[0].dtype)
        result = func(*args, **kwargs)
        if func._schema.is_mutable or not _storages(result) <= _storages((args, kwargs)):
            self._note_unrecordable(str(func))
        return result


_recorder: _Recorder | None = None


def _storages(values: object) -> set[int]:
    """Return the addresses of the memory behind all tensors in `values`."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)}


def _num_users(tensor: torch.Tensor) -> int:
    """Return the reference count of the tensor's storage: the tensor, its views, and this call."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


_UNUSED = _num_users(torch.empty(1))
