"""How both processes write their logs, whose lines go to one terminal or file."""

import codecs
import datetime
import enum
import logging
import os
import re
import sys
from typing import Any, TextIO

import msgspec

FORM_VARIABLE = "HEADRACE_LOG_FORMAT"
LEVEL_VARIABLE = "HEADRACE_LOG_LEVEL"

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_FIELDS = "fields"
# What a terminal or a reader of lines obeys instead of showing: C0 and C1 controls, and Unicode's line separators.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TRACEBACK_INDENT = "    "
_ENCODE = codecs.getencoder("unicode_escape")  # found now: later there may be no file left to read it from


class LogFormat(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


def configure_logging(level: str, form: LogFormat) -> None:
    """Write the root logger's lines to stderr. level: a name as in the option, such as "info"."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter(_TEXT))
    logging.basicConfig(handlers=[handler], force=True)
    set_log_level(level)


def set_log_level(level: str) -> None:
    """Of this process, and of those that it starts from now on. level: a name as in the option."""
    os.environ[LEVEL_VARIABLE] = level
    logging.getLogger().setLevel(level.upper())
    # uvicorn tells its own start and stop, which ours say better; httpx tells every request of a download.
    for name in ("uvicorn", "httpx"):
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)


def with_fields(**fields: object) -> dict[str, dict[str, object]]:
    """The `extra` of a log call whose JSON line has these fields; the text line has its message alone."""
    return {_FIELDS: fields}


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is when a line comes: while progress bars are drawn, that puts lines above them."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override] # an attribute there, bound once
        return sys.stderr


class TextFormatter(logging.Formatter):
    """A line for each record, whatever its message has in it: what a client sent can forge no other line. A traceback
    follows in lines of its own, which are indented, as no line of a record is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if _CONTROL.search(record.message):
            record.message = _CONTROL.sub(_escape, record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(_TRACEBACK_INDENT + _CONTROL.sub(_escape, line) for line in lines)


def _escape(match: re.Match[str]) -> str:
    return _ENCODE(match[0])[0].decode()


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the fields that the call gives, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()
