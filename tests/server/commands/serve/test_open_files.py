"""Room for connections among the files that a process may have open."""

import logging
import resource

import pytest

from engine.errors import StartupError
from server.commands.serve.open_files import (
    MIN_OPEN_FILES,
    allow_open_files,
    connections_at_once,
    room_for_connections,
)

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("limits", "expected", "num_connections"),
    [
        ((1024, 1_048_576), (2816, 1_048_576), 2048),  # 2,048 connections, a quarter more, and 256 others
        ((65_536, 1_048_576), None, 2048),
        ((1024, 2000), (2000, 2000), 1395),
        ((64, 64), (64, 64), 19),
        ((1024, resource.RLIM_INFINITY), (2816, resource.RLIM_INFINITY), 2048),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, 2048),
    ],
)
def test_the_limit_is_raised_as_far_as_needed_and_allowed(
    limits: tuple[int, int],
    expected: tuple[int, int] | None,
    num_connections: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    chosen: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: chosen.append(pair))
    assert allow_open_files(2048) == num_connections
    assert chosen == ([] if expected is None else [expected])
    assert (f"too few for 2048 connections: more than {num_connections} get 503" in caplog.text) == (
        num_connections < 2048
    )


def _refuse(_limit: int, _pair: tuple[int, int]) -> None:
    raise ValueError("current limit exceeds maximum limit")


def test_a_system_that_refuses_a_higher_limit_leaves_room_for_fewer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", _refuse)
    assert allow_open_files(100) == 100
    assert not caplog.records
    assert allow_open_files(2048) == 153
    assert "more than 153 get 503" in caplog.text


@pytest.mark.parametrize("num_files", [MIN_OPEN_FILES, 128, 256, 1024, 2000, 100_000])
def test_connections_and_those_too_many_leave_files_for_the_rest(
    num_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (num_files, num_files))
    room, at_once = room_for_connections(num_files), connections_at_once()
    assert room >= 8
    assert 1 <= at_once <= 8
    assert room + max(1, room // 4) + 4 * at_once <= num_files - 28


@pytest.mark.parametrize("hard", [20, resource.RLIM_INFINITY])
def test_a_limit_that_is_too_low_for_anything_ends_the_start(hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, hard))
    monkeypatch.setattr(resource, "setrlimit", _refuse)
    with pytest.raises(StartupError, match=r"at most 20 files may be open.*ulimit -n 2816"):
        allow_open_files(2048)
