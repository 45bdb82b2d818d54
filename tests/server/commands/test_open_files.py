"""Room for connections among the files that a process may have open."""

import logging
import resource

import pytest

from engine.errors import StartupError
from server.commands.open_files import allow_open_files

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("limits", "expected", "is_warned"),
    [
        ((1024, 1_048_576), (2816, 1_048_576), False),  # 2,048 connections, a quarter more, and 256 others
        ((65_536, 1_048_576), None, False),
        ((1024, 2000), (2000, 2000), True),
        ((1024, resource.RLIM_INFINITY), (2816, resource.RLIM_INFINITY), False),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, False),
    ],
)
def test_the_limit_is_raised_as_far_as_needed_and_allowed(
    limits: tuple[int, int],
    expected: tuple[int, int] | None,
    is_warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    chosen: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: chosen.append(pair))
    allow_open_files(2048)
    assert chosen == ([] if expected is None else [expected])
    assert ("too few for 2048 connections" in caplog.text) == is_warned


def test_a_limit_that_is_too_low_for_anything_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    with pytest.raises(StartupError, match=r"at most 20 files may be open.*ulimit -n 2816"):
        allow_open_files(2048)
