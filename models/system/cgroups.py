"""The control groups that this process is in: where a container's or a service's limits are written."""

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def own_folders(controller: str, cgroups: Path = CGROUPS, own_cgroups: Path = OWN_CGROUPS) -> Iterator[Path]:
    """Folders of the process's groups that may limit `controller`, and of the groups above, as far as can be seen.

    cgroups: where they are mounted; own_cgroups: the lines `id:controllers:path` of this process (v1 and v2). In a
    container the path is often of the host, and the mount shows the container's group as its root.
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
