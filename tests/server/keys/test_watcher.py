"""A keys file that changes: taken over once it is settled, or told to be broken and left."""

import logging
import os
import threading
from pathlib import Path

import pytest

from server.errors import ExpiredApiKey, InvalidApiKey
from server.keys import watcher as watcher_module
from server.keys.key import ApiKey
from server.keys.key_file import read_keys
from server.keys.ring import KeyRing
from server.keys.spending import Spending
from server.keys.watcher import KeysWatcher
from server.metrics.values import Metrics
from tests.helpers.keys import entry, secret, write_keys

pytestmark = pytest.mark.fast


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("m")


def _ring(metrics: Metrics, path: Path, now: float = 0.0) -> KeyRing:
    return KeyRing((), read_keys(path), shares_cache=False, spending=Spending(), metrics=metrics, clock=lambda: now)


def _is_taken(ring: KeyRing, name: str) -> bool:
    try:
        return ring.find(secret(name).encode()).name == name
    except InvalidApiKey:
        return False


def _reloads(metrics: Metrics, outcome: str) -> float:
    return float(metrics._counters["api_keys_reloads_total"].labels(outcome)._value.get())


async def test_a_changed_file_is_taken_at_the_second_look_that_finds_it_so(tmp_path: Path, metrics: Metrics) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, entry("ann"), entry("ben"))
    ring = _ring(metrics, path)
    watcher = KeysWatcher(path, ring, metrics)
    await watcher.check()
    assert _reloads(metrics, "loaded") == 0
    write_keys(path, entry("ben"), entry("eve"))
    await watcher.check()
    assert _is_taken(ring, "ann")
    await watcher.check()
    assert [_is_taken(ring, name) for name in ("ann", "ben", "eve")] == [False, True, True]
    await watcher.check()
    assert _reloads(metrics, "loaded") == 1
    assert metrics.value("api_keys") == 2


async def test_streams_do_not_wait_for_a_long_file(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, entry("ann"))
    watcher = KeysWatcher(path, _ring(metrics, path), metrics)
    readers = []

    def read(path: Path) -> list[ApiKey]:
        readers.append(threading.current_thread())
        return read_keys(path)

    monkeypatch.setattr(watcher_module, "read_keys", read)
    watcher.reload()
    await watcher.check()
    assert len(readers) == 1
    assert readers[0] is not threading.current_thread()


async def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path, metrics: Metrics) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, entry("ann"))
    ring = _ring(metrics, path)
    watcher = KeysWatcher(path, ring, metrics)
    for size in (5, 10, 15):
        path.write_text("x" * size)
        await watcher.check()
    assert _is_taken(ring, "ann")
    assert _reloads(metrics, "failed") == 0


@pytest.mark.parametrize("broken", ["", "{", '{"keys": [{"name": "eve"}]}', None])
async def test_a_broken_file_keeps_the_keys_and_is_told_once(
    tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, entry("ann"))
    ring = _ring(metrics, path)
    watcher = KeysWatcher(path, ring, metrics)
    path.unlink()
    if broken is not None:
        path.write_text(broken)
        path.chmod(0o600)
    for _ in range(5):
        await watcher.check()
    assert _is_taken(ring, "ann")
    assert _reloads(metrics, "failed") == metrics.value("api_keys_file_broken") == 1
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the previous keys stay valid" in line.message
    write_keys(path, entry("eve"))
    await watcher.check()
    await watcher.check()
    assert [_is_taken(ring, name) for name in ("ann", "eve")] == [False, True]
    assert metrics.value("api_keys_file_broken") == 0


async def test_a_pipe_in_the_place_of_the_file_holds_up_nothing(
    tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, entry("ann"))
    ring = _ring(metrics, path)
    watcher = KeysWatcher(path, ring, metrics)
    path.unlink()
    os.mkfifo(path)  # opening a pipe waits for a writer
    for _ in range(2):
        await watcher.check()
    assert f"cannot read {path}: it is not a regular file" in caplog.text
    assert _is_taken(ring, "ann")
    path.unlink()
    write_keys(path, entry("ben"))
    for _ in range(2):
        await watcher.check()
    assert [_is_taken(ring, name) for name in ("ann", "ben")] == [False, True]


async def test_a_file_that_cannot_be_looked_at_does_not_end_the_watch(tmp_path: Path, metrics: Metrics) -> None:
    path = tmp_path / ("k" * 300)  # longer than names may be: as a folder that may not be entered, for root too
    keys = tmp_path / "keys.json"
    write_keys(keys, entry("ann"))
    ring = _ring(metrics, keys)
    watcher = KeysWatcher(path, ring, metrics)
    watcher.reload()
    await watcher.check()
    assert _reloads(metrics, "failed") == 1
    assert _is_taken(ring, "ann")


async def test_a_file_is_read_again_on_request_though_it_looks_the_same(tmp_path: Path, metrics: Metrics) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, entry("ann"))
    ring = _ring(metrics, path)
    watcher = KeysWatcher(path, ring, metrics)
    before = path.stat()
    path.write_text(path.read_text().replace(entry("ann")["hash"], entry("eve")["hash"]).replace('"ann"', '"eve"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    await watcher.check()
    await watcher.check()
    assert _is_taken(ring, "ann")
    watcher.reload()
    await watcher.check()
    assert _is_taken(ring, "eve")


def test_a_file_that_others_can_read_is_told(
    tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, entry("ann"))
    path.chmod(0o644)
    KeysWatcher(path, _ring(metrics, path), metrics)
    assert "chmod 600 it" in caplog.text


def test_a_key_is_taken_until_it_expires(tmp_path: Path, metrics: Metrics) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, entry("ann", expires="2026-01-01T00:00:00Z"))
    expires_s = 1767225600.0
    assert _is_taken(_ring(metrics, path, expires_s - 1), "ann")
    with pytest.raises(ExpiredApiKey, match="'ann' expired at 2026-01-01T00:00:00Z"):
        _ring(metrics, path, expires_s).find(secret("ann").encode())


def test_limits_outlive_a_change_of_the_file(tmp_path: Path, metrics: Metrics) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, entry("ann", requests_per_minute=3))
    ring = _ring(metrics, path)
    first = ring.find(secret("ann").encode()).account
    assert first is not None
    first.count_request()
    write_keys(path, entry("ann", requests_per_minute=3, weight=2), entry("ben"))
    ring.replace(read_keys(path))
    caller = ring.find(secret("ann").encode())
    assert caller.account is first
    assert caller.weight == 2
    assert first.requests is not None
    assert first.requests.level < 2.1
