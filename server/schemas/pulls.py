"""Pulls as the dashboard sees them, and the body that starts one."""

from typing import Annotated, Literal

import msgspec
from pydantic import Field

from server.schemas.base import StrictModel

PullState = Literal["waiting", "running", "complete", "failed", "stopped"]


class PullRequest(StrictModel):
    """The body of POST /dashboard/pulls."""

    model: Annotated[str, Field(min_length=1)]


class PullMemory(msgspec.Struct, frozen=True):
    """Whether a fetched model fits into memory, as headrace doctor reckons: ok, warning (with swapping), problem."""

    severity: Literal["ok", "warning", "problem"]
    message: str


class PullView(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is fetched into the cache, or was. Sizes are in bytes.

    total: size of the current stage; 0 if unknown. unit: of done and total; "B" for bytes. free_bytes: free memory of
    the device that models run on; null until it is known. error: why the model was not fetched.
    """

    id: str
    model: str
    state: PullState
    stage: str
    done: int
    total: int
    unit: str
    created_at: int
    free_bytes: int | None = None
    error: str | None = None
    path: str | None = None
    size_bytes: int | None = None
    memory: PullMemory | None = None
    serve: str | None = None  # the command that serves the model


class PullReport(msgspec.Struct, frozen=True):
    """The patterns of --pull-allow, and the pulls of this server, newest first."""

    allowed: list[str]
    pulls: list[PullView]
