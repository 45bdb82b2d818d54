"""Memory that can be had: of a device, or of this machine within its container's limit."""

import os
from pathlib import Path

import torch

from models.errors import ModelError

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
# Of version 2 and of version 1: limit, use, statistics, and the prefix of the statistics that count those below too.
_LAYOUTS = (
    ("memory.max", "memory.current", "memory.stat", ""),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
)


def free_memory_bytes(device: torch.device, *, meminfo: Path = _MEMINFO, cgroups: Path = _CGROUPS) -> int:
    """Memory that a new allocation on `device` may take now. Files in the system's cache count as free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    available = _fields(meminfo).get("MemAvailable:")
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if available is None else available * 1024
    limited = _cgroup_free_bytes(cgroups)
    return free if limited is None else min(free, limited)


def obtainable_memory_bytes(device: torch.device, *, meminfo: Path = _MEMINFO, cgroups: Path = _CGROUPS) -> int:
    """The most that can be allocated on `device` at all: with what the system could move to its swap."""
    free = free_memory_bytes(device, meminfo=meminfo, cgroups=cgroups)
    if device.type == "cuda":
        return free
    swap = _fields(meminfo).get("SwapFree:", 0) * 1024
    limited = _cgroup_free_swap_bytes(cgroups)
    return free + (swap if limited is None else min(swap, limited))


def require_memory(needed: int, device: torch.device) -> None:
    """Raise ModelError if weights of so many bytes cannot be had.

    A CPU would grant them, and the system kill the process that writes to them.
    """
    obtainable = obtainable_memory_bytes(device)
    if needed > obtainable:
        raise too_large(needed, obtainable, device)


def too_large(needed: int, obtainable: int, device: torch.device) -> ModelError:
    return ModelError(
        f"the weights need {needed / 2**30:.2f} GiB and {device} has {obtainable / 2**30:.2f} GiB free; free some, or "
        "choose a smaller model, fewer bits (--quantization int4) or another --device"
    )


def _cgroup_free_bytes(cgroups: Path) -> int | None:
    """Limit less use of the control group at the mount's root, in a container its own; None: no limit.

    The use counts the files that were read, which can be given up.
    """
    for limit_file, usage_file, statistics_file, prefix in _LAYOUTS:
        limit_path, usage_path = cgroups / limit_file, cgroups / usage_file
        if limit_path.exists() and usage_path.exists():
            limit = limit_path.read_text().strip()
            if limit == "max":
                return None
            statistics = _fields(cgroups / statistics_file)
            cached = sum(statistics.get(f"{prefix}{name}_file", 0) for name in ("active", "inactive"))
            return max(0, int(limit) - int(usage_path.read_text()) + cached)
    return None


def _cgroup_free_swap_bytes(cgroups: Path) -> int | None:
    """What the same group may still move to swap; None: no limit of its own."""
    limit_path, usage_path = cgroups / "memory.swap.max", cgroups / "memory.swap.current"
    if limit_path.exists() and usage_path.exists():
        limit = limit_path.read_text().strip()
        return None if limit == "max" else max(0, int(limit) - int(usage_path.read_text()))
    # Version 1 limits memory and swap together.
    both = [cgroups / f"memory/memory.memsw.{name}_in_bytes" for name in ("limit", "usage")]
    memory = [cgroups / f"memory/memory.{name}_in_bytes" for name in ("limit", "usage")]
    if not all(path.exists() for path in (*both, *memory)):
        return None
    (both_limit, both_usage), (limit_bytes, usage) = (
        [int(path.read_text()) for path in pair] for pair in (both, memory)
    )
    return max(0, (both_limit - both_usage) - max(0, limit_bytes - usage))


def _fields(path: Path) -> dict[str, int]:
    """First number of each line by the line's first word; empty if there is no such file."""
    if not path.exists():
        return {}
    return {fields[0]: int(fields[1]) for line in path.read_text().splitlines() if len(fields := line.split()) > 1}
