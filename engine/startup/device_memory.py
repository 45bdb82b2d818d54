"""device_memory: the memory of a CUDA device that a KV cache may take, from a measured full step."""

from dataclasses import dataclass

import torch

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.runner.kv_budget import format_bytes
from engine.runner.peak import left_by_utilization, measure_peak
from engine.scheduling.kv.groups import KVGroup
from models.loaded_model import LoadedModel
from models.system import cuda


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A device's memory in bytes. peak_bytes: of this process in its largest step, with weights, without KV cache.
    other_bytes: of other processes, of CUDA itself, and of libraries."""

    total_bytes: int
    other_bytes: int
    peak_bytes: int

    @property
    def free_bytes(self) -> int:
        """The most that a KV cache could take."""
        return max(0, self.total_bytes - self.other_bytes - self.peak_bytes)

    def kv_bytes(self, utilization: float) -> int:
        """Return what --gpu-memory-utilization leaves for the KV cache. Raises StartupError if that is nothing."""
        left = left_by_utilization(self.total_bytes, utilization, self.other_bytes + self.peak_bytes)
        if left <= 0:
            raise StartupError(
                f"--gpu-memory-utilization {utilization:g} of {format_bytes(self.total_bytes)} leaves nothing for the "
                f"KV cache: weights and a full step take {format_bytes(self.peak_bytes)}, and other processes and CUDA "
                f"{format_bytes(self.other_bytes)}; end other processes, quantize (--quantization fp8), lower "
                "--max-num-batched-tokens or --max-num-seqs, or raise the share"
            )
        return left

    def describe(self, device: torch.device) -> str:
        """Return the start-up line about the device's memory."""
        return (
            f"Device memory: {format_bytes(self.total_bytes)} on {device}; weights and the largest step take "
            f"{format_bytes(self.peak_bytes)}, others {format_bytes(self.other_bytes)}"
        )


def measure_device(
    config: EngineConfig, model: LoadedModel, groups: tuple[KVGroup, ...], max_tokens: int
) -> DeviceMemory:
    """Compute the largest steps, and measure the device. max_tokens: of a step."""
    peak = measure_peak(
        model, groups, block_size=config.block_size, max_tokens=max_tokens, max_num_seqs=config.max_num_seqs
    )
    free, total = cuda.memory_bytes(model.device)
    _, own = cuda.peak_bytes(model.device)
    return DeviceMemory(total, other_bytes=max(0, total - free - own), peak_bytes=peak)
