"""KeyedAnswers: answers by their requests' Idempotency-Key, so that a request that is sent again is computed once."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import InvalidRequest
from server.errors import RequestInProgress
from server.metrics.values import Metrics

MAX_ANSWER_BYTES = 8 << 20
_MAX_BYTES = 64 << 20  # of all kept answers
_KEEP_S = 3600.0  # from the first request with a key
_ENTRY_BYTES = 1024  # of an entry without an answer: its key, and the digest of its request


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A response of status 200, with its headers as ASGI has them."""

    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(eq=False, slots=True)
class KeyedRequest:
    """The first request with a key. While it has neither `answer` nor `stream_id`, it is being prepared or computed."""

    key: tuple[str, str, str]  # owner, path, and the client's key
    digest: bytes  # of the body
    since_s: float
    answer: WholeAnswer | None = None
    stream_id: str | None = None  # of its resumable stream, or background response that is streamed

    @property
    def is_running(self) -> bool:
        return self.answer is None and self.stream_id is None

    @property
    def num_bytes(self) -> int:
        return _ENTRY_BYTES + (0 if self.answer is None else len(self.answer.body))


class KeyedAnswers:
    """The requests with an Idempotency-Key of the last hour and their answers, 64 MiB in all, oldest forgotten first.
    A request that runs is not forgotten, lest a repetition run beside it.

    Invariant: `_num_bytes` is the sum over all entries, which are in order of `since_s`.
    """

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._requests: dict[tuple[str, str, str], KeyedRequest] = {}
        self._num_bytes = 0

    def begin(self, owner: str, path: str, key: str, digest: bytes) -> tuple[KeyedRequest, bool]:
        """Return the first request with this key, and whether it is this one, which must be released or kept then.

        Raises InvalidRequest if that request had another body, and RequestInProgress if it has no answer yet.
        """
        self._forget_old()
        found = self._requests.get((owner, path, key))
        if found is None:
            new = KeyedRequest((owner, path, key), digest, self._clock())
            self._requests[new.key] = new
            self._count_bytes(new.num_bytes)
            return new, True
        if found.digest != digest:
            self._count("reused")
            raise InvalidRequest(
                "the Idempotency-Key was sent before with another body; send a new key with each new request",
                code="idempotency_key_reused",
            )
        if found.is_running:
            self._count("in_progress")
            raise RequestInProgress(
                "the first request with this Idempotency-Key is still being answered; send it again in a moment"
            )
        self._count("repeated")
        return found, False

    def keep(self, request: KeyedRequest, answer: WholeAnswer) -> None:
        """Keep the whole answer of a request that runs."""
        self._count_bytes(-request.num_bytes)
        request.answer = answer
        self._count_bytes(request.num_bytes)
        self._forget_old()

    def release(self, request: KeyedRequest) -> None:
        """Forget a request, so that the next one with its key is computed."""
        if self._requests.get(request.key) is request:
            del self._requests[request.key]
            self._count_bytes(-request.num_bytes)

    def _forget_old(self) -> None:
        oldest_s, num_bytes = self._clock() - _KEEP_S, self._num_bytes
        forgotten = []
        for request in self._requests.values():
            if request.since_s > oldest_s and num_bytes <= _MAX_BYTES:
                break
            if not request.is_running:
                forgotten.append(request)
                num_bytes -= request.num_bytes
        for request in forgotten:
            self.release(request)

    def _count(self, outcome: str) -> None:
        self._metrics.add("idempotency_keys_total", 1, outcome)

    def _count_bytes(self, change: int) -> None:
        self._num_bytes += change
        self._metrics.set("idempotency_bytes", self._num_bytes)
