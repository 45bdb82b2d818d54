"""What each service class means to the engine: one table."""

import enum
from dataclasses import dataclass, field

from engine.protocol import ServiceClass


class Yielding(enum.Enum):
    """When a running sequence gives up its place and its blocks to a waiting one of a lower rank."""

    NEVER = enum.auto()
    FOR_ROOM = enum.auto()  # if both do not fit
    AT_ONCE = enum.auto()
    BY_PAUSING = enum.auto()  # its place at once, and its blocks if both do not fit


class CountedAs(enum.Enum):
    """In which metrics of requests, steps, preemptions and prefixes a sequence counts."""

    CLIENTS = enum.auto()
    BATCH = enum.auto()  # which are apart, so that a batch hides nothing of what clients get
    NOTHING = enum.auto()


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """How sequences of one class are served. Classes that yield have higher ranks than those that do not."""

    rank: int  # all of a lower rank are served before them, and preempted after them
    yielding: Yielding
    counted_as: CountedAs
    is_drafted: bool  # the speculator may set drafts
    stays_cached: bool  # its blocks remain in the prefix cache when it ends
    is_evicted_first: bool = False  # what it leaves in the prefix cache goes before what those of clients leave
    fills_idle_steps: bool = False  # it is computed in steps without sequences of lower ranks, and in no others
    is_counted: bool = field(init=False)  # in the metrics of clients; stored, since each step asks it of each sequence

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_counted", self.counted_as is CountedAs.CLIENTS)

    @property
    def yields_at_once(self) -> bool:
        """Whether it is computed in no step while one of a lower rank is ready."""
        return self.yielding in (Yielding.AT_ONCE, Yielding.BY_PAUSING)

    @property
    def yields(self) -> bool:
        """Whether waiting sequences of lower ranks are admitted before it gets its tokens of a step."""
        return self.yielding is not Yielding.NEVER


def _of_clients(rank: int, yielding: Yielding = Yielding.NEVER) -> ServiceRules:
    return ServiceRules(rank=rank, yielding=yielding, counted_as=CountedAs.CLIENTS, is_drafted=True, stays_cached=True)


SERVICE_RULES: dict[ServiceClass, ServiceRules] = {
    ServiceClass.URGENT: _of_clients(0),
    ServiceClass.INTERACTIVE: _of_clients(1),
    ServiceClass.BACKGROUND: _of_clients(2, Yielding.FOR_ROOM),
    # Fills the time in which no client has work. While one has, it keeps its blocks, so that it goes on where it
    # stopped; what it has in the cache goes before what clients left, so that a night's batch does not wash out the
    # prefixes of the day.
    ServiceClass.BATCH: ServiceRules(
        rank=3,
        yielding=Yielding.BY_PAUSING,
        counted_as=CountedAs.BATCH,
        is_drafted=True,
        stays_cached=True,
        is_evicted_first=True,
        fills_idle_steps=True,
    ),
    # Computed again to compare it, beside the traffic that is measured; no request will continue it.
    ServiceClass.AUDIT: ServiceRules(
        rank=4,
        yielding=Yielding.AT_ONCE,
        counted_as=CountedAs.NOTHING,
        is_drafted=False,
        stays_cached=False,
    ),
}
