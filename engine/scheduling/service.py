"""What each service class means to the engine: one table."""

import enum
from dataclasses import dataclass

from engine.protocol import ServiceClass


class Yielding(enum.Enum):
    """When a running sequence gives up its place and its blocks to a waiting one of a lower rank."""

    NEVER = enum.auto()
    FOR_ROOM = enum.auto()  # if both do not fit
    AT_ONCE = enum.auto()


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """How sequences of one class are served. Classes that yield have higher ranks than those that do not."""

    rank: int  # all of a lower rank are served before them, and preempted after them
    yielding: Yielding
    is_counted: bool  # in metrics of requests, steps and preemptions, and in prefix statistics
    is_drafted: bool  # the speculator may set drafts
    stays_cached: bool  # its blocks remain in the prefix cache when it ends

    @property
    def yields(self) -> bool:
        """Whether waiting sequences of lower ranks are admitted before it gets its tokens of a step."""
        return self.yielding is not Yielding.NEVER


def _of_clients(rank: int, yielding: Yielding = Yielding.NEVER) -> ServiceRules:
    return ServiceRules(rank=rank, yielding=yielding, is_counted=True, is_drafted=True, stays_cached=True)


SERVICE_RULES: dict[ServiceClass, ServiceRules] = {
    ServiceClass.URGENT: _of_clients(0),
    ServiceClass.INTERACTIVE: _of_clients(1),
    ServiceClass.BACKGROUND: _of_clients(2, Yielding.FOR_ROOM),
    # Computed again to compare it, beside the traffic that is measured; no request will continue it.
    ServiceClass.AUDIT: ServiceRules(
        rank=3,
        yielding=Yielding.AT_ONCE,
        is_counted=False,
        is_drafted=False,
        stays_cached=False,
    ),
}
