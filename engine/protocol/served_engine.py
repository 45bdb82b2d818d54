"""ServedEngine: the interface of an engine of any kind to the process that runs it."""

from typing import Protocol

from engine.protocol.messages import FromEngine, ToEngine


class ServedEngine(Protocol):
    """An engine that one thread drives: it calls `handle` and `step`, in any order."""

    send_s: float  # time to send the outputs of the last step; set by the process

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to compute or to report."""

    @property
    def is_preparing(self) -> bool:
        """Whether something is prepared beside the steps, such as a grammar, and `has_work` will become true by
        itself."""

    @property
    def seconds_to_deadline(self) -> float | None:
        """Seconds until `has_work` becomes true because a request's time is over; None if no request has a limit."""

    def handle(self, message: ToEngine) -> FromEngine | None:
        """Take a message of the API process; returns the answer to it, if there is one. Messages for other kinds of
        engines are ignored."""

    def step(self) -> FromEngine:
        """Compute one batch; returns the outputs to send."""
