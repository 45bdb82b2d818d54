"""Slot: one place of the model's banks for an adapter, and whose it is."""

import math
from dataclasses import dataclass, field

from engine.protocol import AdapterRef
from engine.scheduling.sequence import Sequence


@dataclass(slots=True, eq=False)
class Slot:
    """users: see AdapterSlots. closed_from: it is for another adapter when its users have ended; sequences of this rank
    and of higher ones do not become its users any more."""

    number: int
    adapter: AdapterRef | None = None
    is_filling: bool = False
    closed_from: float = math.inf
    users: set[Sequence] = field(default_factory=set)
    last_use: int = 0

    @property
    def is_closed(self) -> bool:
        return self.closed_from < math.inf

    def admits(self, sequence: Sequence) -> bool:
        """Whether a sequence that has its adapter may be, or become, its user."""
        return sequence in self.users or sequence.service.rank < self.closed_from

    def has_before(self, rank: int) -> bool:
        """Whether users of it come before this rank."""
        return any(user.service.rank < rank for user in self.users)


def adapter_of(sequence: Sequence) -> AdapterRef:
    """Of a sequence that has one."""
    assert sequence.request.adapter is not None
    return sequence.request.adapter
