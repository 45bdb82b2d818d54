"""The control groups of this process, which hold the limits of a container or a service."""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def own_cgroup_folders(controller: str, cgroups: Path = CGROUPS, own_cgroups: Path = OWN_CGROUPS) -> Iterator[Path]:
    """Yield the folders of this process's control groups for `controller`, and of the visible groups above them.

    cgroups: the mount point; own_cgroups: the file with this process's lines `id:controllers:path` (v1 and v2). In a
    container the path is often the host's, and the mount shows the container's group as its root.
    """
    try:
        lines = own_cgroups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers  # v2 has no controllers here, and no folder for them
        folder = root / path.lstrip("/")
        yield from (parent for parent in (folder, *folder.parents) if parent.is_relative_to(root))
