"""How both processes write their logs, whose lines go to one terminal or file."""

import datetime
import enum
import logging
import sys
from typing import TextIO

import msgspec

FORM_VARIABLE = "HEADRACE_LOG_FORMAT"
LEVEL_VARIABLE = "HEADRACE_LOG_LEVEL"

_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_FIELDS = "fields"


class LogFormat(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


def configure_logging(level: str, form: LogFormat) -> None:
    """Write the root logger's lines to stderr. level: a name as in the option, such as "info"."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else logging.Formatter(_TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


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
