"""Finding: the result of one check of `headrace doctor`."""

import enum

import msgspec


class Severity(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"  # the server works, but is slower or has less than it could
    PROBLEM = "problem"  # the server would not start, or would fail


class Finding(msgspec.Struct, frozen=True):
    """The result of a check. subject: a word or two. message: the result and, unless it is fine, a remedy."""

    subject: str
    severity: Severity
    message: str


def ok(subject: str, message: str) -> Finding:
    return Finding(subject, Severity.OK, message)


def warning(subject: str, message: str) -> Finding:
    return Finding(subject, Severity.WARNING, message)


def problem(subject: str, message: str) -> Finding:
    return Finding(subject, Severity.PROBLEM, message)
