"""Slot: one slot of the model's adapter banks, and its users."""

import math
from dataclasses import dataclass, field

from engine.protocol import AdapterRef
from engine.scheduling.sequence import Sequence


@dataclass(slots=True, eq=False)
class Slot:
    """users: see AdapterSlots. closed_from: the slot gets another adapter when its users have ended; sequences of this
    rank and of higher ranks do not become users any more."""

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
        """Whether a sequence with the slot's adapter may be, or become, its user."""
        return sequence in self.users or sequence.service.rank < self.closed_from

    def has_before(self, rank: int) -> bool:
        """Whether any of its users has a lower rank."""
        return any(user.service.rank < rank for user in self.users)


def adapter_of(sequence: Sequence) -> AdapterRef:
    """Return the adapter of a sequence that has one."""
    assert sequence.request.adapter is not None
    return sequence.request.adapter
