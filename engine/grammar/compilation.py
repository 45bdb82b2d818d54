"""Compilation: the outcome of compiling a grammar."""

import enum
from dataclasses import dataclass

import llguidance


class CompileOutcome(enum.StrEnum):
    """The ways in which compiling a grammar can end."""

    COMPILED = "compiled"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    CANCELED = "cancelled"  # no sequence waited for it any longer


@dataclass(frozen=True, slots=True)
class Compilation:
    """One grammar that is compiled or refused. error: for the client."""

    text: str
    outcome: CompileOutcome
    seconds: float
    matcher: llguidance.LLMatcher | None = None
    error: str = ""
