"""The process that fetches a model: it has ended before its pull has."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from server.metrics.values import Metrics
from server.pulling import process
from server.pulling.pulls import Pulls
from tests.helpers.deadline import DEADLINE_S, until

PROCESS_ID = r"""echo "{\"type\":\"PullMachine\",\"free_bytes\":$$}";"""
REFUSED = r"""echo '{"type":"PullRefused","message":"the disk is full"}';"""


class Ends:
    """Notes which processes are being ended."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._end = process._end

    async def __call__(self, child: asyncio.subprocess.Process) -> None:
        self.ids.append(child.pid)
        await self._end(child)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    ends = Ends()
    monkeypatch.setattr(process, "_end", ends)
    monkeypatch.setattr(process, "_END_TIMEOUT_S", 0.2)
    yield ends
    for process_id in ends.ids:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process_id, signal.SIGKILL)


def _pulls(monkeypatch: pytest.MonkeyPatch, script: str) -> Pulls:
    """Return pulls by a shell that ignores SIGTERM."""
    monkeypatch.setattr(process, "_COMMAND", ("sh", "-c", f"trap '' TERM; {script} exec sleep 600"))
    return Pulls(["*"], Metrics("tiny"))


async def test_later_stops_do_not_interrupt_the_end_of_the_process(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    pulls = _pulls(monkeypatch, PROCESS_ID)
    pull = pulls.start("owner/a", is_kept=True)
    await until(lambda: pull.free_bytes)
    pull.stop()
    await until(lambda: ends.ids)
    pull.stop()
    assert pull.task is not None
    pull.task.cancel()
    async with asyncio.timeout(DEADLINE_S):
        await pulls.close()
    assert pull.state == "stopped"
    assert ends.ids == [pull.free_bytes]
    with pytest.raises(ProcessLookupError):
        os.kill(ends.ids[0], 0)


async def test_a_pull_that_fails_is_not_stopped_by_a_stop_while_its_process_ends(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulls = _pulls(monkeypatch, REFUSED)
    pull = pulls.start("owner/a", is_kept=True)
    await until(lambda: ends.ids)
    async with asyncio.timeout(DEADLINE_S):
        await pulls.close()
    assert (pull.state, pull.error) == ("failed", "the disk is full")
    with pytest.raises(ProcessLookupError):
        os.kill(ends.ids[0], 0)
