"""Log lines as text and as JSON, on whatever stderr is at the time."""

import io
import json
import logging
import sys

import pytest

from engine.child_processes.log_format import LogFormat, configure_logging, with_fields

pytestmark = pytest.mark.fast

logger = logging.getLogger("test.log")


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


FORGED = "x\r\n2026-01-05 10:12:31,402 ERROR   engine: all is lost"


def test_a_message_cannot_forge_another_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", LogFormat.TEXT)
    logger.info("model %s", FORGED + "\x1b[2J\x85\u2028")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        r"model x\r\n2026-01-05 10:12:31,402 ERROR   engine: all is lost\x1b[2J\x85\u2028",
    )


def test_what_an_exception_says_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", LogFormat.TEXT)
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("it failed")
    first, *others = capsys.readouterr().err.splitlines()
    assert first.endswith("it failed")
    assert "all is lost" in others[-1]
    assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("form", LogFormat)
def test_no_character_breaks_a_line(capsys: pytest.CaptureFixture[str], form: LogFormat) -> None:
    configure_logging("info", form)
    others = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)]
    for character in others:
        logger.info("a%sb", character, extra=with_fields(route=f"a{character}b"))
    err = capsys.readouterr().err
    assert err.count("\n") == len(others)
    if form is LogFormat.TEXT:
        assert len(err.splitlines()) == len(others)  # Python's idea of a line has all of them


def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", LogFormat.TEXT)
    logger.info("too much")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("library", ["uvicorn", "httpx"])
def test_libraries_tell_what_is_going_on_in_debugging_alone(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", LogFormat.TEXT)
    logging.getLogger(library).info("a request")
    assert capsys.readouterr().err == ""
    configure_logging("debug", LogFormat.TEXT)
    logging.getLogger(library).info("a request")
    assert "a request" in capsys.readouterr().err


def test_lines_follow_stderr_while_bars_redirect_it(monkeypatch: pytest.MonkeyPatch) -> None:
    configure_logging("info", LogFormat.TEXT)
    redirected = io.StringIO()
    monkeypatch.setattr(sys, "stderr", redirected)
    logger.info("above the bars")
    assert "above the bars" in redirected.getvalue()
