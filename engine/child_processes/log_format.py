"""The format of log lines, which all processes write to one terminal or file."""

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
# Characters that a terminal or a reader of lines obeys instead of showing: C0 and C1 controls, and line separators.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TRACEBACK_INDENT = "    "
_ENCODE = codecs.getencoder("unicode_escape")  # looked up now: later, no file may be left to read the codec from


class LogFormat(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


def configure_logging(level: str, form: LogFormat) -> None:
    """Log to stderr in this format and at this level, also in processes that this one starts from now on.

    level: as in the option --log-level, such as "info".
    """
    os.environ[FORM_VARIABLE] = form
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter(_TEXT))
    logging.basicConfig(handlers=[handler], force=True)
    set_log_level(level)


def set_log_level(level: str) -> None:
    """Set the log level of this process, and of processes that it starts from now on. level: as in --log-level."""
    os.environ[LEVEL_VARIABLE] = level
    logging.getLogger().setLevel(level.upper())
    # uvicorn logs its own start and stop, which our lines say better; httpx logs every request of a download.
    for name in ("uvicorn", "httpx"):
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else logging.WARNING)


def with_fields(**fields: object) -> dict[str, dict[str, object]]:
    """Return `extra` for a log call: the fields are in its JSON line, and not in its text line."""
    return {_FIELDS: fields}


class StderrHandler(logging.StreamHandler[TextIO]):
    """A handler that looks up sys.stderr for each record, since progress bars replace it to keep lines above them."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override] # an attribute there, bound once
        return sys.stderr


class TextFormatter(logging.Formatter):
    """One line per record, with control characters escaped, so that a client's text cannot forge another line. A
    traceback follows on indented lines."""

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
    """One JSON object per record: time (UTC), level, logger, message, the call's fields (`with_fields`), traceback."""

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
