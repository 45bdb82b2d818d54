"""The dashboard's history over the ends of servers."""

import asyncio
import contextlib
import logging
import threading
from pathlib import Path

import msgspec
import pytest

from engine.client.interface import EngineEnd, RestartReason
from engine.protocol import StepStats
from server.live.history import History
from server.live.history_file import HistoryFile
from server.metrics.request_record import RequestRecord

pytestmark = pytest.mark.fast


class _Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def _live(history: History, folder: Path, *, is_killed: bool) -> None:
    """A server that does one step and refuses one request, until it is killed or stopped."""
    file = HistoryFile(history, folder)
    file.load()
    history.on_step(StepStats(decode_tokens=1))
    record = RequestRecord("r", "POST", lambda _: None)
    record.status = 404
    history.on_over(record)
    keeping = asyncio.create_task(file.keep())
    path = folder / "history.json"
    before = path.stat().st_ino if path.exists() else None
    while not path.exists() or path.stat().st_ino == before:
        await asyncio.sleep(0)
    data = path.read_bytes()
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    if is_killed:
        path.write_bytes(data)


async def test_the_next_server_knows_what_happened_before(tmp_path: Path) -> None:
    clock = _Clock()
    for is_killed in (True, False):
        await _live(History(clock), tmp_path, is_killed=is_killed)
        clock.now_s += 90
    history = History(clock)
    HistoryFile(history, tmp_path).load()
    assert [(each.kind, each.at_s) for each in history.happenings] == [
        ("started", 1_000_000.0),
        ("killed", 1_000_000.0),
        ("started", 1_000_090.0),
        ("stopped", 1_000_090.0),
        ("started", 1_000_180.0),
    ]
    assert [bucket.written_tokens for bucket in history.hour()] == [1, 1]
    assert sum(bucket.refused for bucket in history.day()) == len(history.failures) == 2
    assert history.known_since_s <= 1_000_000.0
    history.on_step(StepStats(decode_tokens=1))
    assert sum(bucket.written_tokens for bucket in history.day()) == 3
    assert len({bucket.start_s for bucket in history.day()}) == len(history.day())
    assert (tmp_path / "history.json").stat().st_mode & 0o777 == 0o600


async def test_a_server_that_runs_long_keeps_as_much_as_one_that_does_not(tmp_path: Path) -> None:
    clock = _Clock()
    for _ in range(250):
        await _live(History(clock), tmp_path, is_killed=True)
        clock.now_s += 3600
    history = History(clock)
    HistoryFile(history, tmp_path).load()
    assert (len(history.happenings), len(history.failures)) == (200, 100)
    assert history.happenings[-1].kind == "started"
    assert history.hour() == []
    assert len(history.day()) == 23


async def test_what_a_wrong_clock_put_into_the_future_is_dropped(tmp_path: Path) -> None:
    clock = _Clock()
    clock.now_s += 1e9
    await _live(History(clock), tmp_path, is_killed=True)
    clock.now_s = 1_000_000.0
    history = History(clock)
    HistoryFile(history, tmp_path).load()
    history.on_step(StepStats(decode_tokens=1))
    assert [bucket.start_s <= clock.now_s for bucket in history.day()] == [True]
    assert [(each.kind, each.at_s) for each in history.happenings] == [("killed", 1e6), ("started", 1e6)]
    assert not history.failures


async def test_the_next_server_knows_how_an_engine_ended_before(tmp_path: Path) -> None:
    end = EngineEnd(RestartReason.CRASH, "the engine process ended with exit status 1", num_continued=3, num_failed=1)
    history = History(_Clock())
    history.engine_ended("demo", end)
    await _live(history, tmp_path, is_killed=True)
    data = (tmp_path / "history.json").read_bytes()
    for stored, cause, num_continued in ((data, end.cause, 3), (_without_causes(data), "", 0)):
        (tmp_path / "history.json").write_bytes(stored)
        resumed = History(_Clock())
        HistoryFile(resumed, tmp_path).load()
        (known,) = [each for each in resumed.happenings if each.kind == "engine_ended"]
        assert (known.detail, known.cause, known.num_continued) == ("crash", cause, num_continued)


def _without_causes(data: bytes) -> bytes:
    """The file as a server wrote it that kept no causes."""
    kept = msgspec.json.decode(data)
    for each in kept["happenings"]:
        for name in ("cause", "num_continued", "num_failed"):
            del each[name]
    return msgspec.json.encode(kept)


async def test_a_write_that_lasts_longer_than_the_server_does_not_undo_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = HistoryFile(History(_Clock()), tmp_path)
    began, may_go_on, write = threading.Event(), threading.Event(), file._write

    def write_slowly(data: bytes) -> None:
        if not began.is_set():
            began.set()
            may_go_on.wait()
        write(data)

    monkeypatch.setattr(file, "_write", write_slowly)
    keeping = asyncio.create_task(file.keep())
    await asyncio.to_thread(began.wait)
    keeping.cancel()
    await asyncio.sleep(0)
    may_go_on.set()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    history = History(_Clock())
    HistoryFile(history, tmp_path).load()
    assert [each.kind for each in history.happenings] == ["started", "stopped", "started"]


@pytest.mark.parametrize("data", [b"", b"{}", b'{"saved_s": "x"}'])
def test_a_file_that_cannot_be_read_is_told_of(data: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "history.json").write_bytes(data)
    history = History(_Clock())
    HistoryFile(history, tmp_path).load()
    assert [each.kind for each in history.happenings] == ["started"]
    assert "cannot be read and begins anew" in caplog.text


async def test_a_folder_that_cannot_be_written_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "history.new").mkdir()
    keeping = asyncio.create_task(HistoryFile(History(_Clock()), tmp_path).keep(0.0))
    while "cannot be kept" not in caplog.text:
        await asyncio.sleep(0)
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping
    assert caplog.text.count("cannot be kept") == 1
