"""ServedEngine: the interface between the engine process and its engine, generating or pooling."""

from typing import Protocol

from engine.protocol.messages import FromEngine, ToEngine


class ServedEngine(Protocol):
    """An engine driven by one thread, which calls `handle` and `step` in any order."""

    send_s: float  # time to send the outputs of the last step; set by the process

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to compute or to output."""

    @property
    def is_preparing(self) -> bool:
        """Whether work runs in the background, such as compiling a grammar, after which `has_work` becomes true."""

    @property
    def seconds_to_deadline(self) -> float | None:
        """Seconds until a waiting request times out, which makes `has_work` true; None without time limits."""

    def handle(self, message: ToEngine) -> FromEngine | None:
        """Handle a message of the API process; return the reply, if any. Messages for another kind of engine are
        ignored."""

    def close(self) -> None:
        """Finish what a clean stop should not lose, in less time than the API process waits for the end."""

    def step(self) -> FromEngine:
        """Compute one batch; return the outputs to send."""
