"""Kernels compiled for ARM64 and run under qemu, behind the interface of a KernelLibrary.

One emulated process runs the calls of a level. The memory that a call's pointers lead to is found by the addresses that
tensors gave away since `recording` began; it is copied to that process and back. A call in bytes, all numbers 64-bit
little-endian:

    length of the name, name, number of words, words (arguments as in replay.h), places of the words that are pointers,
    number of buffers, and for each: its size, places of the pointers in it, its bytes
    places: their number, and for each: index of the word or byte, buffer, offset in it

What comes back is the function's result, then the bytes of each buffer.
"""

import ctypes
import hashlib
import shutil
import struct
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.kernels.cpu import build
from models.kernels.cpu.adapters import _LayerAdapter, _Pair
from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.linear import _Segment
from models.kernels.cpu.moe import _ExpertLinear, _MoE, _Router
from models.kernels.cpu.tape import Kernel

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
# Of each level, a processor that has no more than it needs.
PROCESSORS = {"portable": "cortex-a72", "dotprod": "neoverse-n1", "i8mm_bf16": "neoverse-v1"}

Array = tuple[type, Callable[[Any], int]]  # what a pointer leads to, and how many: of the arguments or of the structure
# Arguments that point to something else than a tensor, by function and index, and such fields of structures.
_ARGUMENTS: dict[tuple[str, int], Array] = {
    **{
        (f"hr_{name}", 9): (_Segment, lambda arguments: arguments[10])
        for name in ("quantized_linear", "quantized_linear_adapted", "bf16_linear", "f32_linear", "scaled_linear")
    },
    ("hr_quantized_linear_adapted", 16): (_LayerAdapter, lambda arguments: _num_slots(arguments[17], arguments[3])),
    ("hr_adapt_rows", 9): (_LayerAdapter, lambda arguments: _num_slots(arguments[10], arguments[3])),
    ("hr_mask_rows", 3): (ctypes.c_int64, lambda arguments: arguments[4]),
    ("hr_moe_rows", 0): (_MoE, lambda _: 1),
    ("hr_route_rows", 0): (_Router, lambda _: 1),
}
_FIELDS: dict[tuple[type, str], Array] = {
    (_LayerAdapter, "pairs"): (_Pair, lambda adapter: adapter.num_pairs),
    (_MoE, "up"): (_ExpertLinear, lambda moe: moe.router.num_experts),
    (_MoE, "down"): (_ExpertLinear, lambda moe: moe.router.num_experts),
    (_ExpertLinear, "segments"): (_Segment, lambda linear: linear.num_segments),
    (_ExpertLinear, "row_block_bytes"): (ctypes.c_int64, lambda linear: linear.num_segments),
}
_OF_THIS_PROCESS = (
    *("hr_num_threads", "hr_compute_alone", "hr_set_num_threads", "hr_set_spin_microseconds", "hr_replay"),
    "hr_allow_amx",
)
_C_TYPES = {"p": "void*", "l": "int64_t", "i": "int", "f": "float"}
_C_RESULTS = {None: "void", ctypes.c_int: "int", ctypes.c_int64: "int64_t"}

Place = tuple[int, int, int]


def _num_slots(slots: int, num_rows: int) -> int:
    """How many adapters of a table are used. slots: the address of the rows' slots."""
    return max((ctypes.c_int32 * num_rows).from_address(slots)) + 1


def missing_tools() -> str | None:
    """What to install, or None."""
    missing = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
    if not missing:
        return None
    return f"no {' and no '.join(missing)} here (Debian: apt-get install g++-aarch64-linux-gnu qemu-user)"


def exported_kernels(library: KernelLibrary) -> dict[str, Kernel]:
    """Every function of the library that works on memory or tells sizes, by name."""
    kernels = [value for value in vars(library).values() if isinstance(value, Kernel)]
    return {kernel.name: kernel for kernel in kernels if kernel.name not in _OF_THIS_PROCESS}


def compile_driver(folder: Path, library: KernelLibrary, level: str) -> Path:
    """The driver with the kernels of a level of ARM64, and without any other library; kept beside the compiled kernels.

    folder: for what is made on the way. library: this machine's, for the functions' signatures.
    """
    (folder / "kernels.h").write_text(_declarations(exported_kernels(library).values()))
    sources = [*build.kernel_sources(), build._PROBE_SOURCE, Path(__file__).with_name("arm64_driver.cpp")]
    options = [*build._COMMON, *build._ARM64_LEVELS[level]]
    digest = hashlib.blake2b(" ".join(options).encode(), digest_size=10)
    for path in [*sources, *build.kernel_headers(), folder / "kernels.h"]:
        digest.update(path.read_bytes())
    kept = build.kernel_folder() / f"test-arm64-{level}-{digest.hexdigest()}"
    if kept.exists():
        return kept
    objects = [folder / f"{index}-{source.stem}.o" for index, source in enumerate(sources)]
    options += [f"-I{build.SOURCE_FOLDER}", f"-I{folder}", "-c"]
    build._run_all(
        [[COMPILER, *options, str(source), "-o", str(output)] for source, output in zip(sources, objects, strict=True)],
        folder,
    )
    driver = folder / "driver"
    subprocess.run([COMPILER, "-static", "-pthread", "-o", str(driver), *map(str, objects)], check=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(driver, kept))


def _declarations(kernels: Collection[Kernel]) -> str:
    """The functions in C, and KERNELS(X), which is X(name) for each."""
    lines = [
        f"{_C_RESULTS[kernel.returns]} {kernel.name}({', '.join(_C_TYPES[letter] for letter in kernel.arguments)});"
        for kernel in kernels
    ]
    names = " ".join(f"X({kernel.name})" for kernel in kernels)
    return "\n".join(['extern "C" {', *lines, "}", f"#define KERNELS(X) {names}", ""])


def emulated_level(driver: Path, processor: str) -> str:
    """The level that the probe finds on a processor of the emulator."""
    run = subprocess.run([EMULATOR, "-cpu", processor, str(driver), "level"], check=False)
    return list(build._ARM64_LEVELS)[run.returncode]


class EmulatedProcess:
    """A driver that runs on the processor of a level; started by the first call, and again after one that ended it."""

    def __init__(self, driver: Path, level: str) -> None:
        self._command = [EMULATOR, "-cpu", PROCESSORS[level], str(driver)]
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, call: bytes, num_bytes: int) -> bytes:
        """Run a call; return its `num_bytes` of result and memory. Raises AssertionError if the process ends."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(call)
            self._process.stdin.flush()
        answer = self._process.stdout.read(num_bytes)
        assert len(answer) == num_bytes, f"{EMULATOR} ended with status {self._process.wait()}"
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()


class Arm64Library(KernelLibrary):
    """What the wrappers call."""

    def __init__(self, emulated: EmulatedProcess, host: KernelLibrary, level: str) -> None:
        self.called: set[str] = set()  # names of functions
        self._emulated = emulated
        self._storages: dict[int, torch.UntypedStorage] = {}
        super().__init__(host.path, level)

    def _bind(self, name: str, arguments: str, returns: type | None = None) -> Kernel:
        kernel = super()._bind(name, arguments, returns)
        if name not in _OF_THIS_PROCESS:
            kernel._function = lambda *given: self._call(kernel, given)
        return kernel

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep every storage whose address is asked for."""
        original = torch.Tensor.data_ptr

        def data_ptr(tensor: torch.Tensor) -> int:
            storage = tensor.untyped_storage()
            self._storages[storage.data_ptr()] = storage
            return original(tensor)

        torch.Tensor.data_ptr = data_ptr  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.Tensor.data_ptr = original  # type: ignore[method-assign]
            self._storages.clear()

    def _call(self, kernel: Kernel, given: tuple[int | float | None, ...]) -> int:
        self.called.add(kernel.name)
        memory = _Memory(self._storages)
        places = []
        for index, (kind, value) in enumerate(zip(kernel.arguments, given, strict=True)):
            if kind == "p" and value:
                array = _ARGUMENTS.get((kernel.name, index))
                places.append((index, *memory.locate(int(value), array, given)))
        name, words = kernel.name.encode(), kernel.words(given)
        call = struct.pack("<Q", len(name)) + name + struct.pack("<Q", len(words) // 8) + words + _packed(places)
        answer = self._emulated.run(call + memory.packed(), 8 + sum(memory.sizes))
        memory.take_back(answer[8:])
        return int.from_bytes(answer[:8], "little", signed=True)


@dataclass
class _Memory:
    """The buffers of one call."""

    storages: dict[int, torch.UntypedStorage]  # by address
    starts: list[int] = field(default_factory=list)  # addresses of the buffers, in the order of their numbers
    sizes: list[int] = field(default_factory=list)
    places: list[list[Place]] = field(default_factory=list)

    def locate(self, address: int, array: Array | None = None, owner: object = None) -> tuple[int, int]:
        """(buffer, offset) of an address within a storage, or of an array of which `owner` says how long it is."""
        if array is not None:
            return self._add_array(address, array[0], array[1](owner)), 0
        for start, storage in self.storages.items():
            if start <= address < start + storage.nbytes():
                if start not in self.starts:
                    self._add(start, storage.nbytes(), [])
                return self.starts.index(start), address - start
        raise AssertionError(f"a pointer leads to no tensor: {address:#x}")

    def _add_array(self, address: int, kind: type, count: int) -> int:
        places: list[Place] = []
        for index in range(count if issubclass(kind, ctypes.Structure) else 0):
            start = index * ctypes.sizeof(kind)
            places += self._pointers(kind.from_address(address + start), start)
        self._add(address, count * ctypes.sizeof(kind), places)
        return len(self.starts) - 1

    def _pointers(self, structure: ctypes.Structure, start: int) -> Iterator[Place]:
        """Places of the pointers in a structure that begins `start` bytes into its buffer, and in those within it."""
        for name, kind, *_ in structure._fields_:
            value, offset = getattr(structure, name), start + getattr(type(structure), name).offset
            if issubclass(kind, ctypes.Structure):
                yield from self._pointers(value, offset)
            elif kind is ctypes.c_void_p and value:
                yield (offset, *self.locate(value, _FIELDS.get((type(structure), name)), structure))

    def packed(self) -> bytes:
        parts = [struct.pack("<Q", len(self.starts))]
        for start, size, places in zip(self.starts, self.sizes, self.places, strict=True):
            parts += [struct.pack("<Q", size), _packed(places), ctypes.string_at(start, size)]
        return b"".join(parts)

    def take_back(self, data: bytes) -> None:
        at = 0
        for start, size, places in zip(self.starts, self.sizes, self.places, strict=True):
            if not places:  # a structure holds the other process's addresses
                ctypes.memmove(start, data[at : at + size], size)
            at += size

    def _add(self, start: int, size: int, places: list[Place]) -> None:
        self.starts.append(start)
        self.sizes.append(size)
        self.places.append(places)


def _packed(places: list[Place]) -> bytes:
    return struct.pack("<Q", len(places)) + b"".join(struct.pack("<QQQ", *place) for place in places)
