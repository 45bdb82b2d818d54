"""ServerReport: an operator's view of the whole server: is it full, who uses it, and what happened."""

import msgspec

from server.live.history import Bucket, Failure, Happening
from server.live.machine import MachineFigures
from server.schemas.dashboard_jobs import JobSummary


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one more user fits now, with the figures behind it. Null: not known yet.

    gap_s: expected time between tokens with one more request. first_token_s, seen_gap_s: times to the first token and
    between tokens that clients see: 90th percentiles of the requests that ended in the last five minutes.
    open_first_token_s, open_gap_s: the same of the open requests, so far; first tokens only if they are waited for, or
    came within the last minute. free_tokens: room in the KV cache, also in blocks that are cached for later.
    request_tokens, prompt_tokens, output_tokens, answer_s: means of the last five minutes in which the model answered;
    request_tokens is 1000 before. most_quick: the highest number of concurrent requests that had at most 0.1 s between
    tokens. users: how many users such a number serves if each pauses 45 s between answers of answer_s; null before any
    answer, and while clients wait longer than the limits.
    prompt_token_s, decode_step_s: measured at the start, 0: unknown. predicted_s, measured_s, error_s: sums over the
    last hour's steps, as the step budget expected them, as they were, and of the absolute differences.
    """

    model: str
    reasons: list[str]  # why it does not fit: names of the checks in fit_of
    running: int
    waiting: int
    slots: int
    free_tokens: int
    request_tokens: int
    prompt_tokens: float | None
    output_tokens: float | None
    first_token_s: float | None
    open_first_token_s: float | None
    seen_gap_s: float | None
    open_gap_s: float | None
    gap_s: float | None
    most_quick: int
    answer_s: float | None
    prompt_token_s: float
    decode_step_s: float
    predicted_s: float
    measured_s: float
    error_s: float
    users: int | None


class PoolingFit(msgspec.Struct, frozen=True):
    """Whether one more user of a model for embeddings or scores fits now. answer_s: 90th percentile of the time of
    requests in the last five minutes, or the longer one of open requests; null without any."""

    model: str
    has_room: bool
    answer_s: float | None
    texts_per_s: float


class ModelHealth(msgspec.Struct, frozen=True):
    """State of one model's engine. reason: why it is not ready. batch_running, batch_paused: lines of batches.
    batch_tokens_per_s: tokens that the running lines write. texts_open, texts_per_s: open requests of clients to a
    model for embeddings or scores, and its texts a second in the last ten seconds."""

    name: str
    state: str
    reason: str
    num_restarts: int
    batch_running: int
    batch_paused: int
    batch_tokens_per_s: float
    texts_open: int
    texts_per_s: float


class OpenUse(msgspec.Struct, frozen=True):
    """Requests of one key that are open now, or lines of its batches."""

    key: str
    is_batch: bool
    requests: int


class Stretch(msgspec.Struct, frozen=True):
    """Buckets of one width over a stretch of time, oldest first; empty ones are left out."""

    width_s: int
    num_buckets: int
    buckets: list[Bucket]


class ServerReport(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of GET /dashboard/server. Times are in seconds since 1970."""

    version: str
    started_at: int
    now: float
    has_keys: bool
    is_draining: bool
    models: list[ModelHealth]
    machine: MachineFigures
    hour: Stretch
    day: Stretch
    happenings: list[Happening]  # newest first
    known_since: float
    is_kept: bool  # whether the next server will know what happened
    failures: list[Failure]  # the last 100, newest first
    open: list[OpenUse]
    jobs: list[JobSummary]  # unfinished ones
    fits: list[Fit]
    pooling_fits: list[PoolingFit]
