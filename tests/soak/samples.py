"""What the two processes take while the load runs: memory, descriptors and threads, from /proc."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one time."""

    pid: int
    at_s: float  # time.monotonic()
    rss_bytes: int
    num_files: int
    num_threads: int


def take_sample(pid: int) -> Sample | None:
    """None if there is no such process."""
    folder = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        if "VmRSS" not in status:  # it is ending
            return None
        num_files = len(list((folder / "fd").iterdir()))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Sample(pid, time.monotonic(), int(status["VmRSS"].split()[0]) * 1024, num_files, int(status["Threads"]))


def of_last_process(samples: list[Sample]) -> list[Sample]:
    """The samples of the process that ran last: an engine that was started again begins anew."""
    return [sample for sample in samples if sample.pid == samples[-1].pid]


def settled(samples: list[Sample]) -> list[Sample]:
    """The later half: until then caches fill and code is loaded."""
    began_s, ended_s = samples[0].at_s, samples[-1].at_s
    return [sample for sample in samples if sample.at_s >= (began_s + ended_s) / 2]


def growth_mib_per_minute(samples: list[Sample]) -> float:
    """Slope of the memory, by least squares."""
    minutes = [sample.at_s / 60 for sample in samples]
    return statistics.linear_regression(minutes, [sample.rss_bytes / MIB for sample in samples]).slope
