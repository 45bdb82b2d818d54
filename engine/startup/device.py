"""choose_device: the torch device of --device, or a start error with the remedy."""

import logging
import re

import torch

from engine.config import Device
from engine.errors import StartupError
from models.system import cuda

logger = logging.getLogger(__name__)

# Below, bf16 products and asynchronous copies, on which kernels rest, are missing.
LEAST_CAPABILITY = (8, 0)
_NO_DEVICE = re.compile(r"no nvidia driver|no cuda gpus|no cuda-capable device", re.IGNORECASE)
_OLD_DRIVER = re.compile(r"driver.*too old|driver version is insufficient", re.IGNORECASE)


def choose_device(option: str) -> torch.device:
    """Return the device of --device, and make it the current one. "auto" is the first CUDA device that can be used,
    else the CPU. Raises StartupError if the device that the option names cannot be used."""
    refusal = device_refusal(option)
    if refusal is not None and option == Device.AUTO:
        logger.warning("--device auto computes on the CPU: %s", refusal)
    elif refusal is not None:
        raise StartupError(f"--device is {option}, but {refusal}, or use --device cpu")
    device = planned_device(option)
    if device.index is not None:
        cuda.make_current(device.index)
    return device


def planned_device(option: str) -> torch.device:
    """Return the device that a start with this option uses; the CPU where it would fail."""
    if option == Device.CPU or _cuda_refusal(_index(option)) is not None:
        return torch.device("cpu")
    return torch.device("cuda", _index(option))


def device_refusal(option: str) -> str | None:
    """Return why the device that the option names cannot be used, and a remedy; None if it can. For "auto" None, too,
    if there is no CUDA device, or none that torch was built for."""
    if option == Device.CPU:
        return None
    if option == Device.AUTO:
        if cuda.cuda_build() is None:
            return None
        if (error := cuda.start_error()) is not None and _NO_DEVICE.search(error):
            return None
    return _cuda_refusal(_index(option))


def _index(option: str) -> int:
    return int(option.partition(":")[2] or 0)


def _cuda_refusal(index: int) -> str | None:
    """Return why a CUDA device cannot be used, and a remedy; None if it can."""
    build = cuda.cuda_build()
    if build is None:
        return (
            f"this torch ({torch.__version__}) was built without CUDA; install a build with it "
            "(docs/installation.md says how)"
        )
    if (error := cuda.start_error()) is not None:
        return f"torch cannot use CUDA ({error}); {_start_remedy(error, build)}"
    count = cuda.device_count()
    if index >= count:
        names = ", ".join(f"cuda:{each} ({cuda.device_properties(each).name})" for each in range(count))
        return f"there is no such device: {names or 'none'}; name one of these, check CUDA_VISIBLE_DEVICES"
    device = cuda.device_properties(index)
    if device.capability < LEAST_CAPABILITY:
        capability, least = (f"{major}.{minor}" for major, minor in (device.capability, LEAST_CAPABILITY))
        return (
            f"{device.name} has compute capability {capability}, and headrace needs {least} (Ampere, 2020); choose "
            "another device"
        )
    return None


def _start_remedy(error: str, build: str) -> str:
    if _OLD_DRIVER.search(error):
        return f"update the NVIDIA driver to one for CUDA {build}, install a torch built for an older CUDA"
    if _NO_DEVICE.search(error):
        return (
            "check with nvidia-smi that driver and device are there, and in a container that it was started with "
            "--gpus all"
        )
    return "check the driver with nvidia-smi"
