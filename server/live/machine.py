"""MachineSampler: use of the machine's processors, memory and disks, and this server's share of it."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

logger = logging.getLogger(__name__)

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_MIN_INTERVAL_S = 1.0  # between two samples; several pages share one
_DISK_TIMEOUT_S = 1.0
_IDLE, _IOWAIT = 3, 4  # columns of /proc/stat
_USER, _SYSTEM = 11, 12  # fields of /proc/PID/stat, counted from behind the name


class DiskFigures(msgspec.Struct, frozen=True):
    """The file system of a folder. label: the folder's purpose."""

    label: str
    total_bytes: int
    free_bytes: int


class MachineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Use of the machine. Null: this system does not tell.

    cpu_busy, cpu_own: share of all cores since the sample before, by all programs and by this server's processes.
    memory_total: of the machine, or of its container if that has a limit. memory_free: includes pages of files, which
    the system can drop. memory_own: of this server's processes, mapped files such as weights included. disks: those
    that answer.
    """

    num_cores: int
    cpu_busy: float | None
    cpu_own: float | None
    memory_total: int | None
    memory_free: int | None
    memory_own: int | None
    swap_total: int | None
    swap_used: int | None
    disks: list[DiskFigures]


class MachineSampler:
    """Reads Linux's /proc. Processor shares are means since the last sample, so the first sample has none.

    Reading takes milliseconds, and a second if a disk does not answer: use a thread. Any thread may sample.
    """

    def __init__(self, folders: Mapping[str, str], *, proc: Path = _PROC, cgroup: Path = _CGROUP) -> None:
        """folders: paths on the disks to report, by label. A folder may not exist yet."""
        self._folders = dict(folders)
        self._proc = proc
        self._cgroup = cgroup
        self._ticks = self._read_ticks()
        self._own_ticks = self._read_own_ticks()
        self._sampled_s = time.monotonic()
        self._figures: MachineFigures | None = None
        self._guard = threading.Lock()
        self._readers = dict.fromkeys(self._folders, threading.Thread())  # by label; not alive before the first sample
        self._usages: dict[str, tuple[int, int, int]] = {}  # device, total and free bytes, of disks that answered
        self._faulty: set[str] = set()  # labels of folders whose disk could not be read

    def sample(self) -> MachineFigures:
        """Return the figures now, or of the last second."""
        with self._guard:
            now_s = time.monotonic()
            if self._figures is None or now_s - self._sampled_s >= _MIN_INTERVAL_S:
                self._figures = self._read()
                self._sampled_s = now_s
            return self._figures

    def _read(self) -> MachineFigures:
        ticks, own_ticks = self._read_ticks(), self._read_own_ticks()
        busy = own = None
        if ticks is not None and self._ticks is not None and (passed := ticks[1] - self._ticks[1]) > 0:
            busy = _share(ticks[0] - self._ticks[0], passed)
            used = sum(each - self._own_ticks.get(pid, 0) for pid, each in own_ticks.items())
            own = min(busy, _share(used, passed))
        elif self._figures is not None:
            busy, own = self._figures.cpu_busy, self._figures.cpu_own
        self._ticks, self._own_ticks = ticks, own_ticks
        memory = self._fields("meminfo")
        total, free = self._limited(memory.get("MemTotal:"), memory.get("MemAvailable:"))
        swap_total, swap_free = memory.get("SwapTotal:"), memory.get("SwapFree:")
        return MachineFigures(
            num_cores=os.cpu_count() or 1,
            cpu_busy=busy,
            cpu_own=own,
            memory_total=total,
            memory_free=free,
            memory_own=self._resident_bytes(own_ticks, memory.get("Mapped:")) or None,
            swap_total=swap_total,
            swap_used=None if swap_total is None or swap_free is None else swap_total - swap_free,
            disks=self._disks_that_answer(),
        )

    def _read_ticks(self) -> tuple[int, int] | None:
        """Return busy and all ticks of all cores since the machine's start."""
        try:
            line = (self._proc / "stat").read_text().partition("\n")[0]
        except OSError:
            return None
        columns = [int(each) for each in line.split()[1:9]]  # later columns are parts of these
        return sum(columns) - columns[_IDLE] - columns[_IOWAIT], sum(columns)

    def _read_own_ticks(self) -> dict[int, int]:
        """Return the ticks of each of this server's processes: this one, and all below it."""
        found: dict[int, int] = {}
        left = [os.getpid()]
        while left:
            pid = left.pop()
            try:
                fields = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
                found[pid] = int(fields[_USER]) + int(fields[_SYSTEM])
                for each in (self._proc / str(pid) / "task").glob("*/children"):
                    left += [int(child) for child in each.read_text().split()]
            except OSError:  # it has ended
                continue
        return found

    def _resident_bytes(self, pids: Iterable[int], mapped_bytes: int | None) -> int:
        """Return the memory of processes together. mapped_bytes: pages of files that any program maps, each once, which
        bounds what the processes share. (The exact number would need a walk through all pages of all weights.)"""
        private = shared = 0
        for pid in pids:
            try:
                fields = (self._proc / str(pid) / "statm").read_text().split()
            except OSError:
                continue
            private += int(fields[1]) - int(fields[2])
            shared += int(fields[2])
        page = os.sysconf("SC_PAGE_SIZE")
        return private * page + (shared * page if mapped_bytes is None else min(shared * page, mapped_bytes))

    def _fields(self, name: str) -> dict[str, int]:
        """Return the bytes in a file that lists kibibytes by name; empty without the file."""
        try:
            lines = (self._proc / name).read_text().splitlines()
        except OSError:
            return {}
        return {words[0]: int(words[1]) * 1024 for line in lines if len(words := line.split()) > 1}

    def _limited(self, total: int | None, free: int | None) -> tuple[int | None, int | None]:
        """Return total and free memory within the container's limit, if it has one."""
        try:
            limit = int((self._cgroup / "memory.max").read_text())
            used = int((self._cgroup / "memory.current").read_text())
            lines = (self._cgroup / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # without a limit the file says "max"
            return total, free
        if total is None or free is None or limit >= total:
            return total, free
        files = sum(int(line.split()[1]) for line in lines if line.startswith(("active_file ", "inactive_file ")))
        return limit, max(0, min(free, limit - used + files))

    def _disks_that_answer(self) -> list[DiskFigures]:
        """Return the figures of the disks. A network disk that hangs keeps one thread, and hides no other disk."""
        idle = [label for label, reader in self._readers.items() if not reader.is_alive()]
        for label in idle:
            self._usages.pop(label, None)
            self._readers[label] = threading.Thread(target=self._read_disk, args=(label,), name="disk", daemon=True)
            self._readers[label].start()
        for label in idle:
            self._readers[label].join(_DISK_TIMEOUT_S)
            if self._readers[label].is_alive():
                logger.warning("the disk of %s (%s) does not answer", label, self._folders[label])
        found: dict[int, DiskFigures] = {}
        for label in self._folders:
            if (usage := self._usages.get(label)) is not None:
                device, total, free = usage
                shown = f"{found[device].label} and {label}" if device in found else label
                found[device] = DiskFigures(shown, total, free)
        return list(found.values())

    def _read_disk(self, label: str) -> None:
        folder = self._folders[label]
        try:
            path = Path(folder).expanduser().absolute()
            existing = next(each for each in (path, *path.parents) if each.exists())
            device, usage = existing.stat().st_dev, shutil.disk_usage(existing)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
            if label not in self._faulty:
                logger.warning("the disk of %s (%s) cannot be read: %s", label, folder, error)
            self._faulty.add(label)
            return
        self._faulty.discard(label)
        self._usages[label] = device, usage.total, usage.free


def _share(ticks: int, passed: int) -> float:
    return min(1.0, max(0.0, ticks / passed))
