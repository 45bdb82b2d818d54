"""Compilation of Triton kernels for GPUs that are not there, and what the machine code says.

The disassembler comes with Triton. Registers, spills, shared memory and instructions are known this way; time is not.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

from models.kernels.triton.launch import Grid, Kernel, launching_with

REGISTERS = 65_536  # of 32 bits, in a multiprocessor: also the most that one block of threads may have
SHARED_BYTES = {80: 166_912, 90: 232_448, 100: 232_448}  # most for a block, by compute capability
_OPCODE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")


class Launch(NamedTuple):
    kernel: Kernel
    grid: Grid
    args: tuple[Any, ...]
    meta: dict[str, Any]


class MachineCode(NamedTuple):
    """A compiled kernel. sm: compute capability times 10. opcodes: of all instructions, such as LDGSTS.E.BYPASS.128."""

    name: str
    sm: int
    num_warps: int
    registers: int  # a thread
    shared_bytes: int  # a block of threads
    opcodes: tuple[str, ...]

    def count(self, pattern: str) -> int:
        """Return the number of instructions whose opcode begins with the regular expression."""
        return sum(re.match(pattern, opcode) is not None for opcode in self.opcodes)

    def check(self) -> None:
        """Check that the kernel can start and keeps its values in registers."""
        where = f"{self.name} for sm_{self.sm} with {self.num_warps} warps"
        spills = self.count(r"(STL|LDL)\b")
        assert not spills, f"{where} spills registers: {spills} instructions"
        used = self.registers * self.num_warps * 32
        assert used <= REGISTERS, f"{where} needs {used} registers of {REGISTERS}"
        limit = SHARED_BYTES[self.sm]
        assert self.shared_bytes <= limit, f"{where} needs {self.shared_bytes} bytes of shared memory of {limit}"


def launches(function: Callable[[], object]) -> list[Launch]:
    """Return what `function` launches, none of which is run. Its tensors may be on the device "meta"."""
    found: list[Launch] = []
    with launching_with(lambda *launch: found.append(Launch(*launch))):
        function()
    return found


def compiled(launch: Launch, sm: int) -> MachineCode:
    """Compile a launch's kernel as Triton would for its arguments. Tensors begin at a multiple of 16 bytes, views by
    their offset."""
    kernel = launch.kernel
    assert isinstance(kernel, JITFunction)
    names = {parameter.name for parameter in kernel.params}
    given = dict(zip(kernel.arg_names, launch.args, strict=False)) | launch.meta
    signature, constants, attributes = {}, {}, {}
    for number, parameter in enumerate(kernel.params):
        value = given.get(parameter.name, parameter.default if parameter.has_default else None)
        assert parameter.name in given or parameter.has_default, f"{kernel.__name__} lacks {parameter.name}"
        is_one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (is_one and value is not True):
            signature[parameter.name], constants[number,] = "constexpr", value
            continue
        signature[parameter.name] = mangle_type(_typed(value))
        if not parameter.do_not_specialize and _is_divisible(value):
            attributes[number,] = [["tt.divisibility", 16]]
    options = {"enable_fp_fusion": True} | {name: value for name, value in launch.meta.items() if name not in names}
    source = ASTSource(kernel, signature, constants, attributes)
    result = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)
    return _read(kernel.__name__, sm, result.metadata, result.asm["cubin"])


def _typed(value: Any) -> Any:
    """Return a tensor with memory in place of one without: Triton asks for the address."""
    return torch.empty(1, dtype=value.dtype) if isinstance(value, torch.Tensor) else value


def _is_divisible(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.storage_offset() * value.element_size() % 16 == 0
    return isinstance(value, int) and value is not True and value is not False and value % 16 == 0


def _read(name: str, sm: int, metadata: Any, cubin: bytes) -> MachineCode:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-sass", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers = re.search(r"REG:(\d+)", text)
    assert registers is not None, text[:1000]
    return MachineCode(name, sm, metadata.num_warps, int(registers[1]), metadata.shared, tuple(_OPCODE.findall(text)))
