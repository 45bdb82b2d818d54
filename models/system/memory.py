"""Memory that can be allocated on a device, or on this machine within the limits of control groups and ulimit."""

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from models.errors import ModelError
from models.system import cuda
from models.system.cgroups import CGROUPS, OWN_CGROUPS, own_cgroup_folders


@dataclass(frozen=True, slots=True)
class SystemFiles:
    """The files in which Linux reports memory."""

    meminfo: Path = Path("/proc/meminfo")
    status: Path = Path("/proc/self/status")
    cgroups: Path = CGROUPS
    own_cgroups: Path = OWN_CGROUPS


_SYSTEM = SystemFiles()


def is_host(device: torch.device) -> bool:
    """Whether `device` is the machine's CPU, which computes in the machine's main memory."""
    return device.type == "cpu"


def free_memory_bytes(device: torch.device, *, files: SystemFiles = _SYSTEM) -> int:
    """Return the bytes that can be allocated on `device` now. The system's file cache counts as free."""
    if device.type == "cuda":
        return cuda.memory_bytes(device)[0]
    return min(_free_bytes(files), _address_space_left(files.status))


def obtainable_memory_bytes(device: torch.device, *, files: SystemFiles = _SYSTEM) -> int:
    """Return the bytes that can be allocated on `device` if the system swaps out as much as it can."""
    if device.type == "cuda":
        return free_memory_bytes(device)
    swap = min([_fields(files.meminfo).get("SwapFree:", 0) * 1024, *_groups_free_swap_bytes(files)])
    return min(_free_bytes(files) + swap, _address_space_left(files.status))


def require_memory(needed_bytes: int, device: torch.device) -> None:
    """Raise ModelError if there is not enough memory for the model's weights.

    On a CPU the allocation would succeed, and the system would kill the process when it writes to that memory.
    """
    obtainable_bytes = obtainable_memory_bytes(device)
    if needed_bytes > obtainable_bytes:
        raise not_enough_memory(needed_bytes, obtainable_bytes, device)


def not_enough_memory(needed_bytes: int, obtainable_bytes: int, device: torch.device) -> ModelError:
    needed, obtainable = (f"{num_bytes / 2**30:.2f} GiB" for num_bytes in (needed_bytes, obtainable_bytes))
    return ModelError(
        f"the weights need {needed} and {device} has {obtainable} free; free some, or choose a smaller model, "
        "fewer bits (--quantization int4) or another --device"
    )


def _free_bytes(files: SystemFiles) -> int:
    """Return the free bytes of the machine or of one of the process's control groups, whichever is least."""
    available = _fields(files.meminfo).get("MemAvailable:")
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if available is None else available * 1024
    groups = own_cgroup_folders("memory", files.cgroups, files.own_cgroups)
    return min([free, *(limited for group in groups if (limited := _group_free_bytes(group)) is not None)])


_NO_LIMIT = 1 << 62  # version 1 writes the largest multiple of a page
# For versions 2 and 1: limit, use, and the prefix of the statistics that include the groups below.
_LAYOUTS = (("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))


def _group_free_bytes(group: Path) -> int | None:
    """Return a control group's memory limit minus its usage without cached files; None if it has no limit."""
    for limit_file, usage_file, prefix in _LAYOUTS:
        if (free := _remaining(group / limit_file, group / usage_file)) is not None:
            statistics = _fields(group / "memory.stat")
            cached = sum(statistics.get(f"{prefix}{name}_file", 0) for name in ("active", "inactive"))
            return max(0, free + cached)
    return None


def _groups_free_swap_bytes(files: SystemFiles) -> list[int]:
    """Return the bytes that each control group with a limit may still swap out."""
    free = []
    for group in own_cgroup_folders("memory", files.cgroups, files.own_cgroups):
        swap = _remaining(group / "memory.swap.max", group / "memory.swap.current")
        if swap is None:  # version 1 limits memory and swap together
            memory = _remaining(group / "memory.limit_in_bytes", group / "memory.usage_in_bytes")
            both = _remaining(group / "memory.memsw.limit_in_bytes", group / "memory.memsw.usage_in_bytes")
            swap = None if memory is None or both is None else both - max(0, memory)
        if swap is not None:
            free.append(max(0, swap))
    return free


def _remaining(limit_path: Path, usage_path: Path) -> int | None:
    """Return a limit minus its usage, or None if there is no limit."""
    try:
        limit, usage = limit_path.read_text().strip(), int(usage_path.read_text())
    except OSError:
        return None
    return None if limit == "max" or int(limit) >= _NO_LIMIT else int(limit) - usage


def _address_space_left(status: Path) -> int:
    """Return the bytes that the process may still map within its own limit (ulimit -v)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(0, limit - _fields(status).get("VmSize:", 0) * 1024)


def _fields(path: Path) -> dict[str, int]:
    """Return the first number of each line by the line's first word, as in /proc/meminfo; empty without a file."""
    if not path.exists():
        return {}
    lines = (line.split() for line in path.read_text().splitlines())
    return {fields[0]: int(fields[1]) for fields in lines if len(fields) > 1 and fields[1].isdecimal()}
