"""Finding: one thing that `headrace doctor` looked at, and what it says of it."""

import enum

import msgspec


class Severity(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"  # it works, but slower or with less than could be
    PROBLEM = "problem"  # the server would not start, or would fail


class Finding(msgspec.Struct, frozen=True):
    """subject: a word or two. message: what was found; with what would help, unless it is fine."""

    subject: str
    severity: Severity
    message: str


def ok(subject: str, message: str) -> Finding:
    return Finding(subject, Severity.OK, message)


def warning(subject: str, message: str) -> Finding:
    return Finding(subject, Severity.WARNING, message)


def problem(subject: str, message: str) -> Finding:
    return Finding(subject, Severity.PROBLEM, message)
