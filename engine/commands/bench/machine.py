"""The limits of this machine: bytes read per second, and multiply-adds per second in each precision."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.commands.bench.processor import processor_name
from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.library import kernel_library
from models.kernels.cpu.read import sum_words

_MAX_BUFFER_BYTES = 2 << 30  # far beyond every cache; more would only take memory
_MIN_BUFFER_BYTES = 64 << 20
_CACHES_IN_BUFFER = 4  # buffer over last-level cache: else part of it would still be cached from the last read
_GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured peak rates of this machine, with the engine's number of threads."""

    name: str  # name of the processor
    device: str
    threads: int
    buffer_bytes: int
    read_bytes_per_s: float
    gemm_flops_per_s: dict[str, float]  # by dtype; int8 counts operations, and is absent where torch has no operator

    def best_of(self, again: "Machine") -> "Machine":
        """Return the higher rate of each kind from two measurements of one machine."""
        rates = {name: max(rate, again.gemm_flops_per_s.get(name, 0.0)) for name, rate in self.gemm_flops_per_s.items()}
        read_rate = max(self.read_bytes_per_s, again.read_bytes_per_s)
        return dataclasses.replace(self, read_bytes_per_s=read_rate, gemm_flops_per_s=rates)

    def compute_rate(self, dtype: str) -> float:
        """Return the operations per second in `dtype`; fp16 and unmeasured types count as bf16."""
        return self.gemm_flops_per_s.get(dtype, self.gemm_flops_per_s["bfloat16"])


def measure_machine(device: torch.device, probe: "ReadProbe") -> Machine:
    rates = {str(dtype).removeprefix("torch."): _gemm_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    if (int8_rate := _int8_rate(device)) is not None:
        rates["int8"] = int8_rate
    read_rate = max(probe.rate() for _ in range(_REPEATS))
    return Machine(_name(device), str(device), torch.get_num_threads(), probe.buffer_bytes, read_rate, rates)


class ReadProbe:
    """A buffer to measure read bandwidth: as large as the weights, larger than all caches, in huge pages on a CPU."""

    def __init__(self, device: torch.device, weight_bytes: int) -> None:
        min_bytes = max(_MIN_BUFFER_BYTES, _CACHES_IN_BUFFER * _last_level_cache_bytes())
        size = min(_MAX_BUFFER_BYTES, max(min_bytes, weight_bytes)) // 8 * 8
        self._device = device
        self._is_native = device.type == "cpu" and kernel_library() is not None
        if device.type == "cpu":
            self._words = HugePageArena().allocate(size).view(torch.int64).fill_(1)
        else:
            self._words = torch.ones(size // 8, dtype=torch.int64, device=device)
        self.rate()  # the first time touches pages and wakes threads

    @property
    def buffer_bytes(self) -> int:
        return self._words.nbytes

    def rate(self) -> float:
        """Read the buffer once; return bytes per second. On a shared machine the rate changes from moment to moment."""
        synchronize(self._device)
        began_s = time.perf_counter()
        if self._is_native:
            sum_words(self._words)
        else:
            self._words.sum()
        synchronize(self._device)
        return self.buffer_bytes / (time.perf_counter() - began_s)


def _last_level_cache_bytes() -> int:
    """Return the size of the first processor's last-level cache; 0 if unknown."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(text[:-1]) << 10 for path in sizes if (text := path.read_text().strip()).endswith("K")), default=0)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor_name()


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
    times = []
    for _ in range(_REPEATS + 1):
        synchronize(device)
        began_s = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began_s)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait until a GPU's queue is empty; do nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
