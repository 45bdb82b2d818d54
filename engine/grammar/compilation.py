"""Compilation: how compiling a grammar ended."""

import enum
from dataclasses import dataclass

import llguidance


class Outcome(enum.StrEnum):
    """How compiling a grammar ended."""

    COMPILED = "compiled"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"  # nobody waited for it any longer


@dataclass(frozen=True, slots=True)
class Compilation:
    """One grammar that is compiled or refused. error: for the client."""

    text: str
    outcome: Outcome
    seconds: float
    matcher: llguidance.LLMatcher | None = None
    error: str = ""
