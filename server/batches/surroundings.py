"""Surroundings: what the jobs of one server share."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from server.batches.answers import LineAnswer
from server.batches.places import Places
from server.files.store import Files
from server.keys.caller import Caller

Sleep = Callable[[float], Awaitable[Any]]
RunBody = Callable[[Caller, str, dict[str, Any], Sleep], Awaitable[LineAnswer]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all jobs of a server share.

    run_body: answers the body of a line for a caller, by an endpoint, and is given what to wait with. It raises
    EngineStopped where the server ends before. find_caller: of a batch's owner; None while its key is not accepted.
    quiet: returns when no client of a model has work, or after the given seconds. count: is told what became of a
    number of lines.
    """

    files: Files
    run_body: RunBody
    find_caller: Callable[[str], Caller | None]
    places: Callable[[str | None], Places]
    quiet: Callable[[str | None, float], Awaitable[None]]
    may_feed: Callable[[], bool]
    count: Callable[[str, int], None]
    default_model: str  # that a line means which names none
    max_lines: int
    max_line_bytes: int
    sleep: Sleep = asyncio.sleep
