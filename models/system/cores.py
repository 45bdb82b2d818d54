"""The number of CPUs that this process may use, by its affinity and the quotas of its control groups."""

import os
from pathlib import Path

from models.system.cgroups import CGROUPS, OWN_CGROUPS, own_cgroup_folders


def allowed_cpus() -> set[int]:
    """Return the CPUs that the process may run on, as set by a cpuset, taskset or the like."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Return the number of physical cores in this process's affinity, at most the CPU quota of its container.

    Hyper-threads of one core share the units that kernels keep busy. With more threads than the quota, all of them
    are stopped together for the rest of each period (100 ms), so a fraction of a core is not rounded up.
    """
    cores = _physical_cores()
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def _physical_cores() -> int:
    cores = set()
    for cpu in allowed_cpus():
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as siblings:
                cores.add(siblings.read().strip())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def cpu_quota(cgroups: Path = CGROUPS, own_cgroups: Path = OWN_CGROUPS) -> float | None:
    """Return the smallest CPU quota, in CPUs, of the process's control group and those above it; None: no limit."""
    folders = own_cgroup_folders("cpu", cgroups, own_cgroups)
    quotas = [quota for folder in folders if (quota := _folder_quota(folder)) is not None]
    return min(quotas, default=None)


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
