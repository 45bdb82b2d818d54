"""The usage log: a line for each request, across rotation, and without any harm from a full disk."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from engine.errors import OptionError
from server.keys import usage_log
from server.keys.usage_log import UsageLog
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics

pytestmark = pytest.mark.fast


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("m")


def _record(request_id: str) -> RequestRecord:
    record = RequestRecord(request_id, "POST", lambda _: None, "org/model")
    record.key_name, record.route, record.status = "ann", "/v1/completions", 200
    record.counted_prompt_tokens, record.cached_tokens, record.output_tokens = 10, 4, 3
    return record


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _ids(path: Path) -> list[str]:
    return [line["request_id"] for line in _lines(path)]


async def test_a_line_says_whose_request_it_was_and_what_it_used(tmp_path: Path, metrics: Metrics) -> None:
    path = tmp_path / "usage.jsonl"
    log = UsageLog(path, metrics)
    log.add(_record("a"))
    await log.close()
    (line,) = _lines(path)
    assert line.pop("time").endswith("Z")
    assert line.pop("duration_s") >= 0
    assert line == {
        "request_id": "a",
        "key": "ann",
        "route": "/v1/completions",
        "model": "org/model",
        "status": 200,
        "outcome": "completed",
        "error": None,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "output_tokens": 3,
    }
    assert path.stat().st_mode & 0o007 == 0


async def test_a_file_that_is_moved_away_gets_no_more_lines(tmp_path: Path, metrics: Metrics) -> None:
    path, moved = tmp_path / "usage.jsonl", tmp_path / "usage.jsonl.1"
    log = UsageLog(path, metrics)
    for request_id in "ab":
        log.add(_record(request_id))
    await log.flush()
    path.rename(moved)
    log.add(_record("c"))
    await log.flush()
    path.unlink()
    log.add(_record("d"))
    log.reopen()
    await log.close()
    assert (_ids(moved), _ids(path)) == (["a", "b"], ["d"])


async def test_a_full_disk_loses_lines_and_nothing_else(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    log = UsageLog(Path("/dev/full"), metrics)
    for _ in range(3):
        log.add(_record("a"))
        await log.flush()
    await log.close()
    assert metrics.value("usage_lines_lost_total") == 3
    assert caplog.text.count("lines are dropped") == 1


async def test_a_line_is_written_whole_or_not_at_all(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "usage.jsonl"
    log = UsageLog(path, metrics)
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        for request_id in "abc":
            log.add(_record(request_id))
        await log.flush()
    assert _ids(path) == ["a"]
    assert metrics.value("usage_lines_lost_total") == 2
    log.add(_record("d"))
    await log.close()
    assert _ids(path) == ["a", "d"]


def _read_pipe(reader: int) -> list[bytes]:
    pieces = []
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(reader, 1 << 16):
            pieces.append(piece)
    return b"".join(pieces).splitlines(keepends=True)


async def test_a_pipe_is_waited_for_by_nobody(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage_log, "_PIPE_WAIT_S", 0.0)
    path = tmp_path / "usage.fifo"
    os.mkfifo(path)
    with pytest.raises(OptionError, match="no process reads the pipe"):
        UsageLog(path, metrics)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = UsageLog(path, metrics)
    for number in range(2_000):  # more than a pipe holds
        log.add(_record(str(number)))
    await log.flush()
    lines = _read_pipe(reader)
    assert 0 < len(lines) < 2_000
    assert [json.loads(line)["request_id"] for line in lines] == [str(number) for number in range(len(lines))]
    assert metrics.value("usage_lines_lost_total") == 2_000 - len(lines)
    assert "its reader does not keep up" in caplog.text
    log.add(_record("last"))
    await log.flush()
    (line,) = _read_pipe(reader)
    assert json.loads(line)["request_id"] == "last"
    os.close(reader)
    log.add(_record("nobody's"))
    await log.close()
    assert metrics.value("usage_lines_lost_total") == 2_001 - len(lines)


async def test_lines_that_a_disk_does_not_keep_up_with_are_bounded(tmp_path: Path, metrics: Metrics) -> None:
    log = UsageLog(tmp_path / "usage.jsonl", metrics)
    for number in range(10_005):
        log.add(_record(str(number)))
    await log.close()
    assert metrics.value("usage_lines_lost_total") == 5
    assert len(_ids(tmp_path / "usage.jsonl")) == 10_000


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path, metrics: Metrics) -> None:
    with pytest.raises(OptionError, match="--usage-log"):
        UsageLog(tmp_path / "missing" / "usage.jsonl", metrics)
