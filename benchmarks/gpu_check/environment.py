"""Stage "environment": versions, the device and its free memory."""

import importlib.metadata
import platform
from collections.abc import Iterator

import torch

from benchmarks.gpu_check.figures import Figure
from benchmarks.gpu_check.stages import Context
from engine.startup.device import device_refusal
from models.system import cuda

_PACKAGES = ("torch", "triton", "numpy", "msgspec", "fastapi", "transformers")


def environment(context: Context) -> Iterator[Figure]:
    yield Figure("Python", None, note=platform.python_version())
    for name in _PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        yield Figure(name, None, note=version)
    refusal = device_refusal(str(context.device))
    yield Figure("device is usable", float(refusal is None), limit=1, note=refusal or "")
    if context.device.type == "cuda" and refusal is None:
        found = cuda.describe(context.device.index or 0)
        yield Figure("device", None, note=f"{found.name}, CUDA {torch.version.cuda}")
        free, total = cuda.memory_bytes(context.device)
        yield Figure("free memory", free / 2**30, "GiB", limit=0.9 * total / 2**30)
