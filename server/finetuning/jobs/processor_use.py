"""processor_use: how much a process has computed, and whether it would compute now."""

import os
from dataclasses import dataclass
from pathlib import Path

_STATE, _USER, _SYSTEM = 0, 11, 12  # places in a line of the kernel, behind the name


@dataclass(frozen=True, slots=True)
class ProcessorUse:
    """seconds: of all its threads, since it began. is_ready: whether one of them runs, or only lacks a processor; else
    they wait for something else, such as a disk, or are stopped."""

    seconds: float
    is_ready: bool


def processor_use(pid: int) -> ProcessorUse | None:
    """None where the system does not tell."""
    folder = Path(f"/proc/{pid}")
    try:
        whole = _fields(folder / "stat")
        is_ready = any(_fields(each / "stat")[_STATE] == "R" for each in (folder / "task").iterdir())
    except OSError:  # there is no such folder, or the process has ended
        return None
    return ProcessorUse((int(whole[_USER]) + int(whole[_SYSTEM])) / os.sysconf("SC_CLK_TCK"), is_ready)


def _fields(path: Path) -> list[str]:
    return path.read_text().rpartition(")")[2].split()
