"""Questions about CUDA devices, which torch answers: their number, memory and compute capability; and copies to them.

All of headrace asks here, so that tests can answer for devices that are not there (tests/helpers/fake_cuda.py).
"""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from models.errors import DeviceLostError, is_device_error, is_out_of_memory, shorten_error


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """A device's fixed properties."""

    name: str
    capability: tuple[int, int]
    total_bytes: int
    num_processors: int  # streaming multiprocessors


def cuda_build() -> str | None:
    """Return the version of CUDA that torch was built for; None for a build without CUDA."""
    return torch.version.cuda


def start_error() -> str | None:
    """Return torch's message if it cannot use any CUDA device, such as one about the driver; None if it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the same, on the standard error
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:  # the latter from builds without CUDA
            return " ".join(str(error).split())
    return None


def device_count() -> int:
    return torch.cuda.device_count()


def device_properties(index: int) -> CudaDevice:
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    return CudaDevice(properties.name, capability, properties.total_memory, properties.multi_processor_count)


def device_uuid(device: torch.device) -> str | None:
    """Return the UUID of a CUDA device, by which NVIDIA's tools find it whatever its number; None for other devices."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


def make_current(index: int) -> None:
    """Make a device the one of calls that name none."""
    torch.cuda.set_device(index)


def memory_bytes(device: torch.device) -> tuple[int, int]:
    """Return the free and the total bytes of a device, for all processes."""
    free, total = torch.cuda.mem_get_info(device)
    return int(free), int(total)


def staged(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to host memory from which `device` copies without making the host wait (`non_blocking`).

    `host` may change as soon as this returns; torch keeps the copy until the device has read it.
    """
    return host.pin_memory() if device.type == "cuda" else host.clone()


class HostCopy(NamedTuple):
    """A device's tensor on its way to the host. copied: after the copy in the device's order; None on the host."""

    tensor: torch.Tensor
    copied: torch.cuda.Event | None

    def read(self) -> torch.Tensor:
        """Wait until the tensor is there, but for nothing that was launched later, and return it."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.tensor


def copied_back(tensor: torch.Tensor) -> HostCopy:
    """Launch the copy of a tensor to host memory. The device carries it out before what is launched after it."""
    if tensor.device.type != "cuda":
        return HostCopy(tensor, None)
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tensor.device))
    return HostCopy(host, copied)


def reset_peak(device: torch.device) -> None:
    """Return cached memory to the device, and measure the peak from now on."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> tuple[int, int]:
    """Return the most bytes that tensors of this process took since `reset_peak`, and the bytes that they take now."""
    return torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)


@contextlib.contextmanager
def naming_faults(device: torch.device) -> Iterator[None]:
    """Convert torch's errors about memory to MemoryError, and those after which the device no longer answers to
    DeviceLostError."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        if device.type == "cuda" and is_device_error(error) and not answers(device):
            raise DeviceLostError(shorten_error(error)) from error
        raise


def answers(device: torch.device) -> bool:
    """Whether the device still computes for this process. After an error that stays, every call repeats it."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
