"""RequestTerms: when a request came, how long it may take, and who is served before it."""

from dataclasses import dataclass

from engine.protocol import ServiceClass
from server.context import ServerContext
from server.schemas.sampling import GenerationRequest

DEFAULT_TIER = "default"
# OpenAI's names. Which rules a class has is the engine's.
_TIERS = {
    "auto": ServiceClass.INTERACTIVE,
    DEFAULT_TIER: ServiceClass.INTERACTIVE,
    "flex": ServiceClass.BACKGROUND,
    "priority": ServiceClass.URGENT,
}


@dataclass(frozen=True, slots=True)
class RequestTerms:
    arrival_s: float  # time.monotonic()
    timeout_s: float | None = None  # from the arrival
    priority: int = 0
    service_tier: str = DEFAULT_TIER

    @property
    def service_class(self) -> ServiceClass:
        return _TIERS[self.service_tier]

    @property
    def deadline_s(self) -> float | None:
        return None if self.timeout_s is None else self.arrival_s + self.timeout_s


def request_terms(body: GenerationRequest, context: ServerContext, arrival_s: float) -> RequestTerms:
    """As the request says, or else the options."""
    timeout_s = body.timeout if body.timeout is not None else context.config.request_timeout
    return RequestTerms(
        arrival_s=arrival_s,
        timeout_s=timeout_s,
        priority=body.priority or 0,
        service_tier=served_tier(body) or DEFAULT_TIER,
    )


def served_tier(body: GenerationRequest) -> str | None:
    """What an answer says of the request's service_tier; None where it asked for none."""
    return DEFAULT_TIER if body.service_tier == "auto" else body.service_tier
