"""The machine's load as Linux tells it, in a container too."""

import asyncio
import errno
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from server.live import machine
from server.live.history import History
from server.live.machine import MachineFigures, MachineSampler
from server.live.machine_watch import watch_machine
from tests.helpers.deadline import DEADLINE_S

_MEMINFO = "MemTotal: 1000 kB\nMemAvailable: 600 kB\nSwapTotal: 100 kB\nSwapFree: 75 kB\n"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_MIN_INTERVAL_S", 0.0)


def _tell(proc: Path, cpu: str, own_ticks: int, child_ticks: int) -> None:
    """Write what /proc says. cpu: user, nice, system, idle and iowait."""
    (proc / "stat").write_text(f"cpu {cpu} 0 0 0 0 0\ncpu0 1 2 3\n")
    (proc / "meminfo").write_text(_MEMINFO)
    for pid, ticks, children in ((os.getpid(), own_ticks, "77"), (77, child_ticks, "")):
        folder = proc / str(pid)
        (folder / "task" / "1").mkdir(parents=True, exist_ok=True)
        (folder / "task" / "1" / "children").write_text(children)
        (folder / "stat").write_text(f"{pid} (a ) name) S " + " ".join("0" * 10) + f" {ticks} 0 0")
        (folder / "statm").write_text("100 30 10 0 0 0 0")


def test_the_load_is_the_change_since_the_last_sample(tmp_path: Path) -> None:
    _tell(tmp_path, "100 0 100 700 100", own_ticks=50, child_ticks=10)
    sampler = MachineSampler({"data": str(tmp_path / "not" / "there")}, proc=tmp_path, cgroup=tmp_path)
    _tell(tmp_path, "130 0 110 740 120", own_ticks=60, child_ticks=20)
    figures = sampler.sample()
    assert (figures.cpu_busy, figures.cpu_own) == (0.4, 0.2)
    assert (figures.memory_total, figures.memory_free) == (1_024_000, 614_400)
    assert (figures.swap_total, figures.swap_used) == (102_400, 25_600)
    assert figures.memory_own == 2 * 30 * os.sysconf("SC_PAGE_SIZE")
    (disk,) = figures.disks
    assert disk.label == "data"
    assert disk.total_bytes >= disk.free_bytes > 0
    assert sampler.sample().cpu_busy == 0.4  # no tick has passed


def test_a_containers_limit_counts_as_its_memory(tmp_path: Path) -> None:
    _tell(tmp_path, "1 0 1 1 1", own_ticks=1, child_ticks=1)
    (tmp_path / "memory.max").write_text("500000\n")
    (tmp_path / "memory.current").write_text("450000\n")
    (tmp_path / "memory.stat").write_text("anon 350000\nactive_file 60000\ninactive_file 40000\n")
    figures = MachineSampler({}, proc=tmp_path, cgroup=tmp_path).sample()
    assert (figures.memory_total, figures.memory_free) == (500_000, 150_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert MachineSampler({}, proc=tmp_path, cgroup=tmp_path).sample().memory_total == 1_024_000


def test_a_system_without_proc_tells_what_it_can(tmp_path: Path) -> None:
    figures = MachineSampler({"a": str(tmp_path), "b": str(tmp_path)}, proc=tmp_path, cgroup=tmp_path).sample()
    assert (figures.cpu_busy, figures.memory_total, figures.memory_own, figures.swap_total) == (None, None, None, None)
    assert [disk.label for disk in figures.disks] == ["a and b"]  # one disk is told once


def test_pages_of_files_count_once(tmp_path: Path) -> None:
    _tell(tmp_path, "1 0 1 1 1", own_ticks=1, child_ticks=1)
    page = os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "meminfo").write_text(f"{_MEMINFO}Mapped: {12 * page // 1024} kB\n")  # both map the same 10, and 2 more
    assert MachineSampler({}, proc=tmp_path, cgroup=tmp_path).sample().memory_own == (2 * 20 + 12) * page


def test_a_disk_that_cannot_be_read_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def usage(path: Path) -> Any:
        if path == tmp_path / "bad":
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path)

    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", usage)
    (tmp_path / "bad").mkdir()
    sampler = MachineSampler({"cache": str(tmp_path / "bad"), "data": str(tmp_path)}, proc=tmp_path, cgroup=tmp_path)
    for _ in range(3):
        assert [disk.label for disk in sampler.sample().disks] == ["data"]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"the disk of cache ({tmp_path / 'bad'}) cannot be read: [Errno {errno.ESTALE}] Stale file handle"
    ]


def test_a_disk_that_hangs_costs_one_thread_and_is_told_once_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(path: Path) -> Any:
        if path == hung:
            calls.append(path)
            assert may_answer.wait(DEADLINE_S)
        return real(path)

    calls: list[Path] = []
    hung = tmp_path / "hung"
    hung.mkdir()
    may_answer, real = threading.Event(), shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(machine, "_DISK_TIMEOUT_S", 0.05)
    sampler = MachineSampler({"cache": str(hung), "data": "/"}, proc=tmp_path, cgroup=tmp_path)
    for _ in range(3):
        assert [disk.label for disk in sampler.sample().disks] == ["data"]
    assert len(calls) == 1
    may_answer.set()
    monkeypatch.setattr(machine, "_DISK_TIMEOUT_S", DEADLINE_S)
    sampler._readers["cache"].join(DEADLINE_S)
    assert "cache" in " ".join(disk.label for disk in sampler.sample().disks)


async def test_watching_goes_on_after_errors_off_the_event_loop(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MachineSampler):
        num_samples = 0

        def sample(self) -> MachineFigures:
            assert threading.current_thread() is not threading.main_thread()
            self.num_samples += 1
            if self.num_samples <= 3:
                raise ValueError("this /proc is unknown")
            done.set()
            return super().sample()

    done, history = threading.Event(), History()
    watching = asyncio.create_task(watch_machine(Failing({}), history, 0.0))
    assert await asyncio.to_thread(done.wait, DEADLINE_S)
    watching.cancel()
    await asyncio.wait([watching])
    (record,) = [each for each in caplog.records if "the machine's load cannot be read" in each.getMessage()]
    assert record.exc_info is not None
