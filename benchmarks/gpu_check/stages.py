"""The stages of gpu_check, most valuable first, each of which is run in a process of its own."""

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu_check.figures import Figure


@dataclass(frozen=True, slots=True)
class Context:
    """Where a stage runs. folder: for its files. is_tiny: a dry run on a CPU, of the smallest sizes."""

    device: torch.device
    folder: Path
    is_tiny: bool

    def synchronize(self) -> None:
        """Wait until a GPU has computed everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage. function: "module:name" of a function from a Context to Figures. limit_s: after which it is killed.
    needs_gpu: whether it says nothing on a CPU."""

    name: str
    function: str
    limit_s: float
    needs_gpu: bool = False

    def load(self) -> Callable[[Context], Iterator[Figure]]:
        function: Callable[[Context], Iterator[Figure]] = pkgutil.resolve_name(f"benchmarks.gpu_check.{self.function}")
        return function


STAGES = (
    Stage("environment", "environment:environment", 20),
    Stage("ceilings", "ceilings:ceilings", 30),
    Stage("compile", "throughput:compile_kernels", 60, needs_gpu=True),
    Stage("attention right", "attention:attention_right", 60),
    Stage("models right", "variants:models_right", 90),
    Stage("throughput", "throughput:throughput", 240),
    Stage("attention fast", "attention:attention_fast", 45),
    Stage("http", "http:http", 90),
    Stage("memory", "memory:memory", 45, needs_gpu=True),
    Stage("sanitizer", "attention:sanitized", 60, needs_gpu=True),
    Stage("determinism", "determinism:determinism", 40),
    Stage("lost device", "lost:lost_device", 45),
)
