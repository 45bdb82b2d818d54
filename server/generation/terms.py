"""RequestTerms: when a request came, how long it may take, and who is served before it."""

from dataclasses import dataclass

from server.context import ServerContext
from server.schemas.sampling import GenerationRequest


@dataclass(frozen=True, slots=True)
class RequestTerms:
    arrival_s: float  # time.monotonic()
    timeout_s: float | None = None  # from the arrival
    priority: int = 0

    @property
    def deadline_s(self) -> float | None:
        return None if self.timeout_s is None else self.arrival_s + self.timeout_s


def request_terms(body: GenerationRequest, context: ServerContext, arrival_s: float) -> RequestTerms:
    """As the request says, or else the options."""
    timeout_s = body.timeout if body.timeout is not None else context.config.request_timeout
    return RequestTerms(arrival_s=arrival_s, timeout_s=timeout_s, priority=body.priority or 0)
