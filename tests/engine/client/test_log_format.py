"""Log lines as text and as JSON, on whatever stderr is at the time."""

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from engine.client.log_format import LogFormat, configure_logging, with_fields

pytestmark = pytest.mark.fast

logger = logging.getLogger("test.log")


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def _line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    line: dict[str, object] = json.loads(capsys.readouterr().err)
    return line


def test_a_text_line_has_the_message_alone(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", LogFormat.TEXT)
    logger.info("done in %d s", 3, extra=with_fields(seconds=3))
    assert capsys.readouterr().err.endswith(" INFO    test.log: done in 3 s\n")


def test_a_json_line_is_one_object_with_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", LogFormat.JSON)
    logger.info("done\nin %d s", 3, extra=with_fields(seconds=3, model=None))
    line = _line(capsys)
    time = line.pop("time")
    assert isinstance(time, str)
    assert time.endswith("Z")
    assert line == {"level": "info", "logger": "test.log", "message": "done\nin 3 s", "seconds": 3, "model": None}


def test_a_json_line_has_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", LogFormat.JSON)
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("it failed")
    assert "ValueError: broken" in str(_line(capsys)["exception"])


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", LogFormat.TEXT)
    logger.info("too much")
    assert capsys.readouterr().err == ""


def test_lines_follow_stderr_while_bars_redirect_it(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("info", LogFormat.TEXT)
    redirected = io.StringIO()
    monkeypatch.setattr(sys, "stderr", redirected)
    logger.info("above the bars")
    assert "above the bars" in redirected.getvalue()
