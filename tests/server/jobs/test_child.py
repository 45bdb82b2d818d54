"""Processes of jobs: they can be stopped, go on, end and be killed; nothing of them is left."""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from engine.child_processes.background import IDLE, LOW, NORMAL
from server.jobs.child import log_of, start_child, traceback_of
from tests.helpers.deadline import until
from tests.helpers.server_process import is_alive, state

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="priorities and parents' deaths are Linux's")

_SLEEP = ["-n1", "-r1", "import time; time.sleep(600)"]


def _deaf(folder: Path) -> list[str]:
    """Arguments of one that does not heed SIGTERM once the file `deaf` is there."""
    ignore = "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    return ["-n1", "-r1", f"{ignore}; pathlib.Path({str(folder / 'deaf')!r}).touch(); time.sleep(600)"]


async def test_a_child_is_stopped_and_goes_on_and_is_killed(tmp_path: Path) -> None:
    child = await start_child("timeit", _SLEEP, tmp_path / "lock", IDLE)
    assert os.sched_getscheduler(child.pid) == os.SCHED_IDLE
    child.suspend()
    await until(lambda: state(child.pid) == "T", poll_s=0.01)
    child.resume()
    await until(lambda: state(child.pid) in ("S", "R"), poll_s=0.01)
    child.suspend()
    child.kill()
    assert await child.wait() == -9
    child.suspend()  # which finds nobody


async def test_a_stopped_child_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    child = await start_child("timeit", _SLEEP, tmp_path / "lock", NORMAL)
    child.suspend()
    await child.end()
    assert await child.wait() == -15


async def test_a_child_that_saves_for_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.jobs.child._SAVE_TIMEOUT_S", 0.05)
    child = await start_child("timeit", _deaf(tmp_path), tmp_path / "lock", NORMAL)
    await until((tmp_path / "deaf").exists)
    await child.end()
    assert await child.wait() == -9


async def test_a_child_that_is_killed_while_it_saves_is_waited_for_no_longer(tmp_path: Path) -> None:
    child = await start_child("timeit", _deaf(tmp_path), tmp_path / "lock", NORMAL)
    await until((tmp_path / "deaf").exists)
    ending = asyncio.create_task(child.end())
    await asyncio.sleep(0)
    child.kill()
    await ending
    assert await child.wait() == -9


async def test_what_a_child_has_computed_and_whether_it_would_compute_is_known(tmp_path: Path) -> None:
    child = await start_child("timeit", ["-n1", "-r1", "while True: pass"], tmp_path / "lock", NORMAL)
    await until(lambda: (use := child.processor_use()) is not None and use.seconds > 0 and use.is_ready)
    child.suspend()
    await until(lambda: state(child.pid) == "T", poll_s=0.01)
    stopped = child.processor_use()
    assert stopped is not None
    assert not stopped.is_ready
    child.kill()
    await child.wait()
    assert child.processor_use() is None


@pytest.mark.parametrize("priority", [IDLE, LOW])
async def test_a_child_that_must_end_soon_gives_way_no_longer_in_any_thread(tmp_path: Path, priority: str) -> None:
    threads = "import threading, time; threading.Thread(target=time.sleep, args=(100,), daemon=True).start()"
    child = await start_child("timeit", ["-s", threads, *_SLEEP], tmp_path / "lock", priority)
    tasks = Path(f"/proc/{child.pid}/task")
    await until(lambda: len(list(tasks.iterdir())) == 2, poll_s=0.01)
    child.raise_priority()
    for thread_id in (int(task.name) for task in tasks.iterdir()):
        found = os.sched_getscheduler(thread_id), os.getpriority(os.PRIO_PROCESS, thread_id)
        with contextlib.suppress(PermissionError):  # without rights, a process can only ever give way more
            os.sched_setscheduler(thread_id, os.SCHED_OTHER, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, thread_id, os.getpriority(os.PRIO_PROCESS, 0))
            assert found == (os.SCHED_OTHER, os.getpriority(os.PRIO_PROCESS, 0))
    child.kill()
    await child.wait()
    child.raise_priority()  # which finds nobody


async def test_what_a_child_says_is_kept_apart(tmp_path: Path) -> None:
    child = await start_child("timeit", ["-n1", "-r1", "print('out'); 1 / 0"], tmp_path / "lock", NORMAL)
    assert await child.output() == b"out\n"
    assert await child.wait() == 1
    assert "ZeroDivisionError" in traceback_of(tmp_path / "lock")
    assert log_of(tmp_path / "lock").exists()


async def test_a_start_that_is_canceled_leaves_no_process(tmp_path: Path) -> None:
    first = await start_child("timeit", _SLEEP, tmp_path / "lock", NORMAL)
    waiting = asyncio.create_task(start_child("timeit", _SLEEP, tmp_path / "lock", NORMAL))
    try:
        await until(lambda: len(_children(os.getpid())) == 2, poll_s=0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert [pid for pid in _children(os.getpid()) if is_alive(pid)] == [first.pid]
    finally:
        first.kill()
        await first.wait()


def _children(pid: int) -> list[int]:
    """Those that run the launcher."""
    found = []
    for each in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in each.read_text().split():
            with contextlib.suppress(OSError):  # it may have ended
                if b"engine.child_processes.background" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found
