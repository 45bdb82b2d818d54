"""How many threads should compute on this machine: one for each physical core that the process may use."""

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Physical cores in this process's affinity, but no more than a container's CPU quota pays for.

    Hyper-threads of one core share the units that kernels keep busy. With more threads than the quota all of them are
    stopped together for the rest of each period (100 ms), so a fraction of a core is not rounded up.
    """
    cores = _physical_cores()
    quota = cpu_quota(_CGROUPS, _OWN_CGROUPS)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _physical_cores() -> int:
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as siblings:
                cores.add(siblings.read().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def cpu_quota(cgroups: Path, own_cgroups: Path) -> float | None:
    """CPUs that the control groups grant, the smallest of the process's group and those above it; None: no limit.

    cgroups: where they are mounted; own_cgroups: the lines `id:controllers:path` of this process (v1 and v2).
    """
    quotas = [quota for folder in _own_folders(cgroups, own_cgroups) if (quota := _folder_quota(folder)) is not None]
    return min(quotas, default=None)


def _own_folders(cgroups: Path, own_cgroups: Path) -> Iterator[Path]:
    """Folders of the process's groups and of their parents, as far as they can be seen from here."""
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers  # v2 has no controllers here, and no folder for them
        folder = root / path.lstrip("/")
        yield from (parent for parent in (folder, *folder.parents) if parent.is_relative_to(root))


def _folder_quota(folder: Path) -> float | None:
    try:
        if (v2 := folder / "cpu.max").exists():
            quota, period = v2.read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
    except OSError:
        return None
    return None if quota == "max" or int(quota) < 0 else int(quota) / int(period)
