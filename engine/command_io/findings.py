"""Findings of `headrace doctor`, and the messages to and from its child process, which loads torch. No torch here."""

import enum

import msgspec

from engine.command_io.weighing import Weighed
from engine.config import EngineConfig


class Severity(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"  # the server works, but is slower or has less than it could
    PROBLEM = "problem"  # the server would not start, or would fail


class Finding(msgspec.Struct, frozen=True):
    """The result of a check. subject: its topic. message: the finding and, unless all is well, a remedy."""

    subject: str
    severity: Severity
    message: str


def ok(subject: str, message: str) -> Finding:
    return Finding(subject, Severity.OK, message)


def warning(subject: str, message: str) -> Finding:
    return Finding(subject, Severity.WARNING, message)


def problem(subject: str, message: str) -> Finding:
    return Finding(subject, Severity.PROBLEM, message)


class ModelToCheck(msgspec.Struct, frozen=True):
    """A model to check. name: the model's name in the server; '' if it is the only model."""

    name: str
    config: EngineConfig


class DoctorResult(msgspec.Struct, frozen=True):
    """The findings, and the memory need of each model in order; None for a model that is missing or not usable."""

    findings: list[Finding]
    weighed: list[Weighed | None]
