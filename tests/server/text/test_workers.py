"""TextWorkers: how many works run at once, what becomes of those that are canceled, and that neither lane holds up the
other."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from server.text import workers as workers_module
from server.text.workers import LONG_SIZE, MAX_LONG, MAX_SHORT, TextWorkers
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.threads import NewThreads

pytestmark = pytest.mark.fast


class Gate:
    """Works that wait until the gate opens, and the number of started ones."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.num_started = 0
        self._open = threading.Event()

    def work(self) -> None:
        self.num_started += 1
        self.started.release()
        assert self._open.wait(DEADLINE_S)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
async def workers() -> AsyncIterator[TextWorkers]:
    workers = TextWorkers()
    yield workers
    workers.close()


async def _started(gate: Gate, count: int) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(gate.started.acquire, timeout=DEADLINE_S)


def _runs(workers: TextWorkers, work: Callable[[], None], count: int, size: int) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(workers.run(work, size=size)) for _ in range(count)]


@pytest.mark.parametrize(("size", "limit"), [(0, MAX_SHORT), (LONG_SIZE + 1, MAX_LONG)])
async def test_so_many_works_run_at_once_and_no_more(workers: TextWorkers, size: int, limit: int) -> None:
    gate = Gate()
    tasks = _runs(workers, gate.work, 40, size)
    await _started(gate, limit)
    await asyncio.sleep(0)
    assert gate.num_started == limit
    gate.open()
    await asyncio.gather(*tasks)
    assert gate.num_started == 40


async def test_canceled_works_that_wait_never_run(workers: TextWorkers) -> None:
    new_threads = NewThreads()
    gate, dropped, later = Gate(), Gate(), Gate()
    running = _runs(workers, gate.work, MAX_LONG, LONG_SIZE + 1)
    await _started(gate, MAX_LONG)
    waiting = _runs(workers, dropped.work, 100, LONG_SIZE + 1)
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    gate.open()
    later.open()
    await asyncio.gather(*running, *_runs(workers, later.work, 1, LONG_SIZE + 1))
    assert (dropped.num_started, later.num_started) == (0, 1)
    assert len(new_threads.names()) <= MAX_LONG


async def test_short_texts_do_not_wait_for_long_ones(workers: TextWorkers) -> None:
    gate = Gate()
    running = _runs(workers, gate.work, 2 * MAX_LONG, LONG_SIZE + 1)
    await _started(gate, MAX_LONG)
    async with asyncio.timeout(DEADLINE_S):
        assert await workers.run(lambda: "short", size=10) == "short"
    gate.open()
    await asyncio.gather(*running)


async def test_errors_are_the_callers(workers: TextWorkers) -> None:
    def fail() -> None:
        raise ValueError("no text")

    with pytest.raises(ValueError, match="no text"):
        await workers.run(fail, size=0)


async def test_very_short_texts_need_no_thread(workers: TextWorkers) -> None:
    here = threading.get_ident()
    assert await workers.run_unless_short(threading.get_ident, size=100) == here
    assert await workers.run_unless_short(threading.get_ident, size=100_000) != here


async def test_memory_is_given_back_once_after_large_texts(
    workers: TextWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = asyncio.Event()
    loop = asyncio.get_running_loop()
    calls = []

    def give_back() -> None:
        calls.append(1)
        loop.call_soon_threadsafe(given.set)

    monkeypatch.setattr(workers_module, "give_back_memory", give_back)
    monkeypatch.setattr(workers_module, "_TRIM_DELAY_S", 0.0)
    await asyncio.gather(*_runs(workers, lambda: None, 2, 1 << 21))
    await asyncio.wait_for(given.wait(), DEADLINE_S)
    assert len(calls) in (1, 2)  # the second may have ended after the first's turn
