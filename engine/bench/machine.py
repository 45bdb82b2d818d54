"""What this machine can do: bytes read a second, and multiply-adds a second in each precision."""

import dataclasses
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

_MAX_BUFFER_BYTES = 2 << 30  # far beyond every cache; more would only take memory
_MIN_BUFFER_BYTES = 64 << 20
_GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Machine:
    """Limits that were measured, with as many threads as the engine has."""

    name: str  # of the processor
    device: str
    threads: int
    buffer_bytes: int
    read_bytes_per_s: float
    gemm_flops_per_s: dict[str, float]  # by dtype; int8 counts operations, and is absent where torch has no operator

    def best_of(self, again: "Machine") -> "Machine":
        """The better figures of two measurements of one machine: a limit is what was reached once."""
        rates = {name: max(rate, again.gemm_flops_per_s.get(name, 0.0)) for name, rate in self.gemm_flops_per_s.items()}
        read_rate = max(self.read_bytes_per_s, again.read_bytes_per_s)
        return dataclasses.replace(self, read_bytes_per_s=read_rate, gemm_flops_per_s=rates)

    def compute_rate(self, dtype: str) -> float:
        """Operations a second in `dtype`; fp16 and anything unmeasured counts as bf16."""
        return self.gemm_flops_per_s.get(dtype, self.gemm_flops_per_s["bfloat16"])


def measure_machine(device: torch.device, weight_bytes: int) -> Machine:
    """Measure `device` with a buffer as large as the weights, so that caches help no more than they do there."""
    buffer_bytes = max(_MIN_BUFFER_BYTES, min(_MAX_BUFFER_BYTES, weight_bytes))
    rates = {str(dtype).removeprefix("torch."): _gemm_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    if (int8_rate := _int8_rate(device)) is not None:
        rates["int8"] = int8_rate
    read_rate = _read_rate(buffer_bytes, device)
    return Machine(_name(device), str(device), torch.get_num_threads(), buffer_bytes, read_rate, rates)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _read_rate(num_bytes: int, device: torch.device) -> float:
    """Bytes a second of the fastest of several ways to read a buffer once."""
    width = 8192
    buffer = torch.ones(num_bytes // (4 * width), width, dtype=torch.float32, device=device)
    vector = torch.ones(width, dtype=torch.float32, device=device)
    halves = buffer.view(torch.int64)
    ways: list[Callable[[], object]] = [
        buffer.sum,
        lambda: buffer.sum(dim=1),
        halves.sum,
        buffer.amax,
        lambda: buffer @ vector,
    ]
    return buffer.nbytes / min(_best_s(way, device) for way in ways)


def _gemm_rate(dtype: torch.dtype, device: torch.device) -> float:
    size = _GEMM_SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _best_s(lambda: a @ b, device)


def _int8_rate(device: torch.device) -> float | None:
    size = _GEMM_SIZE[device.type]
    a, b = (torch.randint(-127, 127, (size, size), dtype=torch.int8, device=device) for _ in range(2))
    try:
        return 2 * size**3 / _best_s(lambda: torch._int_mm(a, b), device)
    except (AttributeError, NotImplementedError, RuntimeError):  # a private operator, and not on every device
        return None


def _best_s(work: Callable[[], object], device: torch.device) -> float:
    """The shortest of several runs after a warm-up."""
    times = []
    for _ in range(_REPEATS + 1):
        synchronize(device)
        began_s = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began_s)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait for a GPU's queue; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
