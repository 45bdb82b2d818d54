"""SERVICE_RULES: how the engine schedules each service class."""

import enum
from dataclasses import dataclass, field

from engine.protocol import ServiceClass


class Yielding(enum.Enum):
    """The condition for a running sequence to give up its slot and blocks to a waiting sequence of a lower rank."""

    NEVER = enum.auto()
    FOR_ROOM = enum.auto()  # if there is no room for both sequences
    IMMEDIATELY = enum.auto()
    BY_PAUSING = enum.auto()  # its slot immediately, and its blocks if there is no room for both sequences


class CountedAs(enum.Enum):
    """The set of metrics (requests, steps, preemptions, prefix cache) in which a sequence counts."""

    CLIENTS = enum.auto()
    BATCH = enum.auto()  # metrics of their own, so that a batch does not hide what clients get
    NOTHING = enum.auto()


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """Scheduling rules of a service class. Classes that yield have higher ranks than those that do not."""

    rank: int  # sequences of lower ranks are served before, and preempted after
    yielding: Yielding
    counted_as: CountedAs
    is_drafted: bool  # the speculator may set drafts
    stays_cached: bool  # its blocks remain in the prefix cache when it ends
    is_evicted_first: bool = False  # its blocks in the prefix cache are evicted before clients' blocks
    fills_idle_steps: bool = False  # its sequences are only in steps without sequences of lower ranks
    is_counted: bool = field(init=False)  # counted in the metrics of clients; stored, since each step reads it often

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_counted", self.counted_as is CountedAs.CLIENTS)

    @property
    def yields_immediately(self) -> bool:
        """Whether sequences of this class leave the step as soon as a sequence of a lower rank is ready."""
        return self.yielding in (Yielding.IMMEDIATELY, Yielding.BY_PAUSING)

    @property
    def yields(self) -> bool:
        """Whether this class gives way to waiting sequences of lower ranks, immediately or for lack of room."""
        return self.yielding is not Yielding.NEVER


def _of_clients(rank: int, yielding: Yielding = Yielding.NEVER) -> ServiceRules:
    return ServiceRules(rank=rank, yielding=yielding, counted_as=CountedAs.CLIENTS, is_drafted=True, stays_cached=True)


SERVICE_RULES: dict[ServiceClass, ServiceRules] = {
    ServiceClass.URGENT: _of_clients(0),
    ServiceClass.INTERACTIVE: _of_clients(1),
    ServiceClass.BACKGROUND: _of_clients(2, Yielding.FOR_ROOM),
    # Fills the time in which no client has work. While a client has, a line keeps its blocks, so that it continues
    # where it stopped. Its cached blocks are evicted before clients' blocks, so that a night's batch does not evict
    # the prefixes of the day.
    ServiceClass.BATCH: ServiceRules(
        rank=3,
        yielding=Yielding.BY_PAUSING,
        counted_as=CountedAs.BATCH,
        is_drafted=True,
        stays_cached=True,
        is_evicted_first=True,
        fills_idle_steps=True,
    ),
    # A request that is repeated to compare the outputs, beside the traffic that is measured; no request continues it.
    ServiceClass.AUDIT: ServiceRules(
        rank=4,
        yielding=Yielding.IMMEDIATELY,
        counted_as=CountedAs.NOTHING,
        is_drafted=False,
        stays_cached=False,
    ),
}
