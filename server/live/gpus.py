"""Gpus: memory, utilization, power and energy of the GPUs that this server's engines use, read by NVIDIA's NVML."""

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from server.metrics.values import Metrics

logger = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_PREFIXES = ("GPU-", "MIG-")  # of a UUID, which CUDA leaves out


class GpuFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Use of a GPU by all programs. Null: the driver does not tell.

    busy: share of the driver's last sample, of up to a second, in which any kernel ran. energy_j: since the driver was
    loaded.
    """

    name: str
    memory_used: int | None
    memory_total: int | None
    busy: float | None
    power_w: float | None
    energy_j: float | None


class Gpus:
    """Figures of GPUs by UUID, as they were last read. There are none without the package nvidia-ml-py or its driver.

    `read` takes milliseconds: use a thread, one at a time. Others may ask for figures meanwhile.
    """

    def __init__(self, load: Callable[[], Any] = lambda: importlib.import_module("pynvml")) -> None:
        """load: returns the module `pynvml`, or raises ImportError."""
        self._load = load
        self._nvml: Any = None
        self._handles: dict[str, Any] = {}  # None for a GPU that NVML does not know
        self._figures: Mapping[str, GpuFigures] = {}

    def of(self, uuid: str | None) -> GpuFigures | None:
        """Return the last figures of a GPU; None without any."""
        return None if uuid is None else self._figures.get(uuid)

    def read(self, uuids: Iterable[str]) -> Mapping[str, GpuFigures]:
        """Read the figures of GPUs, by their UUIDs without NVIDIA's prefix, and return them. Logs a fault once."""
        found: dict[str, GpuFigures] = {}
        for uuid in uuids:
            if uuid not in self._handles:
                self._handles[uuid] = self._find(uuid)
            if (handle := self._handles[uuid]) is not None:
                found[uuid] = self._read(handle)
        self._figures = found
        return found

    def _find(self, uuid: str) -> Any:
        try:
            if self._nvml is None:
                nvml = self._load()
                nvml.nvmlInit()
                self._nvml = nvml
        except ImportError:
            logger.info("figures of GPUs are not in the metrics: pip install 'headrace[gpu]' adds them")
            return None
        except Exception as error:  # noqa: BLE001 - NVML's errors; the server works without it
            logger.warning("figures of GPUs are not in the metrics: NVML cannot be used: %s", error)
            return None
        for prefix in _PREFIXES:
            try:
                return self._nvml.nvmlDeviceGetHandleByUUID(prefix + uuid)
            except self._nvml.NVMLError as error:
                reason = error
        logger.warning("figures of GPU %s are not in the metrics: NVML cannot find it: %s", uuid, reason)
        return None

    def _read(self, handle: Any) -> GpuFigures:
        nvml = self._nvml
        memory = self._value(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = self._value(nvml.nvmlDeviceGetUtilizationRates, handle)
        milliwatts = self._value(nvml.nvmlDeviceGetPowerUsage, handle)
        millijoules = self._value(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        return GpuFigures(
            name=self._value(nvml.nvmlDeviceGetName, handle) or "GPU",
            memory_used=None if memory is None else memory.used,
            memory_total=None if memory is None else memory.total,
            busy=None if rates is None else rates.gpu / 100,
            power_w=None if milliwatts is None else milliwatts / 1000,
            energy_j=None if millijoules is None else millijoules / 1000,
        )

    def _value(self, ask: Callable[[Any], Any], handle: Any) -> Any:
        """Return an answer of the driver; None if this GPU does not have the figure, or is lost."""
        try:
            return ask(handle)
        except self._nvml.NVMLError:
            return None


async def watch_gpus(
    gpus: Gpus, uuids: Callable[[], set[str]], metrics: Metrics, interval_s: float = _INTERVAL_S
) -> None:
    """Read the GPUs in use once a second, and set their metrics, until canceled. uuids: of the engines' devices."""
    seen: set[str] = set()  # also those whose model was unloaded: their metrics stay true
    energy_j: dict[str, float] = {}
    while True:
        seen |= uuids()
        if seen:
            for uuid, figures in (await asyncio.to_thread(gpus.read, sorted(seen))).items():
                _record(metrics, uuid, figures, energy_j)
        await asyncio.sleep(interval_s)


def _record(metrics: Metrics, uuid: str, figures: GpuFigures, energy_j: dict[str, float]) -> None:
    """Set a GPU's metrics. energy_j: of each GPU when it was last read."""
    gauges = {
        "gpu_memory_used_bytes": figures.memory_used,
        "gpu_memory_total_bytes": figures.memory_total,
        "gpu_utilization_perc": figures.busy,
        "gpu_power_watts": figures.power_w,
    }
    for name, value in gauges.items():
        if value is not None:
            metrics.set(name, value, uuid)
    if figures.energy_j is not None:
        used_j = figures.energy_j - energy_j.get(uuid, figures.energy_j)
        metrics.add("gpu_energy_joules_total", max(0.0, used_j), uuid)  # less after the driver was loaded anew
        energy_j[uuid] = figures.energy_j
