"""AdapterSlots: assigns the model's adapter slots to adapters, and makes sequences wait whose adapter has none."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.protocol import AdapterRef, AdapterStats
from engine.scheduling.adapters.waiters import AdapterWaiters, WaitingGroup, adapter_of
from engine.scheduling.fairness.fair_queue import FairQueue
from engine.scheduling.sequence import Gate, Sequence

PATIENCE_S = 1.0  # of a waiting sequence, until a slot whose adapter others keep using is closed to new users


class Fill(NamedTuple):
    """An order to load an adapter, if it is not in memory, and write it into a slot."""

    slot: int
    adapter: AdapterRef


@dataclass(slots=True, eq=False)
class Slot:
    """One of the model's adapter slots.

    users: running sequences in the slot, and waiting ones that it is promised to. closed_from: while the slot is being
    freed for another adapter, new sequences with this service rank or a higher one (which are served later) cannot use
    it; infinity for an open slot.
    """

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
        """Whether a sequence with the slot's adapter may use the slot."""
        return sequence in self.users or sequence.service.rank < self.closed_from

    def has_before(self, rank: int) -> bool:
        """Whether a sequence with a lower service rank than `rank`, which is served first, uses this slot."""
        return any(user.service.rank < rank for user in self.users)


class AdapterSlots:
    """Assigns slots to adapters. A sequence whose adapter has no slot is set aside, without blocking the sequences
    behind it.

    A slot's users are the running sequences with its adapter, and waiting sequences that the slot is promised to. Only
    a slot without users is reassigned, least recently used first, so a running sequence keeps the adapter version that
    it started with. When a sequence has waited longer than PATIENCE_S, a slot is closed to new users of the same or
    higher service ranks; lower ranks may still enter, so that a waiting batch does not keep clients out.

    Invariants: an adapter has at most one slot. A running sequence with an adapter is a user of that adapter's slot,
    which is filled. While a sequence is set aside, there is no unused slot for its adapter, except one whose adapter a
    waiting sequence of a lower rank needs. Each closed slot is closed for a different group without a slot, whose rank
    is at most `closed_from`.
    """

    def __init__(self, num_slots: int, waiting: FairQueue, clock: Callable[[], float]) -> None:
        self._slots = [Slot(number) for number in range(num_slots)]
        self._waiters = AdapterWaiters(waiting, clock)
        self._clock = clock
        self._by_digest: dict[bytes, Slot] = {}
        self._running_names: Counter[str] = Counter()  # adapters of running sequences
        self._fills: list[Fill] = []
        self._num_uses = 0
        self._num_evictions = 0

    # --- sequences ----------------------------------------------------------------------------------------------------

    def offer(self, sequence: Sequence) -> bool:
        """Reserve a place in the slot of a waiting sequence's adapter, and return True, if the adapter is loaded and
        the slot admits new sequences. Otherwise set the sequence aside until then and return False; if the adapter has
        no slot and one is free, order the adapter to be loaded into it."""
        slot = self._by_digest.get(adapter_of(sequence).digest)
        if slot is not None and slot.admits(sequence):
            if not slot.is_filling:
                slot.users.add(sequence)
                return True
        elif slot is None and (free := self._free_slot(sequence.service.rank)) is not None:
            self._assign(free, sequence)
        self._waiters.set_aside(sequence)
        return False

    def join(self, sequence: Sequence) -> None:
        self._waiters.join(sequence)

    def admit(self, sequence: Sequence) -> None:
        """Record that a waiting sequence starts running on the slot promised to it."""
        slot = self._by_digest[adapter_of(sequence).digest]
        assert sequence in slot.users
        self._num_uses += 1
        slot.last_use = self._num_uses
        sequence.adapter_slot = slot.number
        self._waiters.leave(sequence)
        self._running_names[adapter_of(sequence).name] += 1

    def leave(self, sequence: Sequence) -> None:
        """Remove a sequence that has ended, waiting or running, and release its slot."""
        if sequence.adapter_slot < 0:
            self._waiters.leave(sequence)
        else:
            self._running_names[adapter_of(sequence).name] -= 1
        sequence.adapter_slot = -1
        if (slot := self._by_digest.get(adapter_of(sequence).digest)) is not None:
            slot.users.discard(sequence)
        self._update_waiters()

    def preempt(self, sequence: Sequence) -> None:
        """Release the slot of a running sequence that goes back to waiting."""
        self.join(sequence)  # before it leaves, so that no later sequence gets its slot
        self.leave(sequence)

    def begin_step(self) -> list[Sequence]:
        """Close slots for groups that waited too long; return running sequences to preempt to free a slot."""
        groups = self._groups_without_slot()
        if not groups:
            return []
        latest_s = self._clock() - PATIENCE_S
        self._close([group.rank for group in groups if self._waiters.since_s(group) <= latest_s])
        return self._victims(groups[0].rank)

    def _close(self, ranks: Iterable[int]) -> None:
        """Close a slot for each of the groups with these ranks, in order. Prefers slots that are closed already, then
        slots without users of lower ranks than the group's, then slots with the fewest users."""
        slots = [slot for slot in self._slots if not slot.is_filling]
        for rank in ranks:
            if not slots:
                return
            slot = min(
                slots, key=lambda slot: (slot.closed_from, slot.has_before(rank), len(slot.users), slot.last_use)
            )
            slots.remove(slot)
            slot.closed_from = min(slot.closed_from, rank)

    def _victims(self, rank: int) -> list[Sequence]:
        """Return the running users of a slot whose users all yield to this rank, and cancel the slot's promises."""
        for slot in self._slots:
            if not slot.is_filling and all(each.service.yields and each.service.rank > rank for each in slot.users):
                victims = [each for each in slot.users if each.adapter_slot >= 0]
                slot.users.intersection_update(victims)
                self._update_waiters()
                return sorted(victims, key=lambda each: each.order, reverse=True)
        return []

    # --- slots --------------------------------------------------------------------------------------------------------

    def take_fills(self) -> list[Fill]:
        """Return the fills ordered since the last call. The caller reports each by `filled` or `failed`."""
        fills, self._fills = self._fills, []
        return fills

    def filled(self, number: int) -> None:
        slot = self._slots[number]
        assert slot.is_filling
        slot.is_filling = False
        self._update_waiters()

    def failed(self, number: int) -> list[Sequence]:
        """Clear a slot whose adapter could not be loaded; return the waiting sequences, which must fail."""
        slot = self._slots[number]
        assert slot.is_filling
        assert slot.adapter is not None
        slot.is_filling = False
        digest = slot.adapter.digest
        self._empty(slot)
        waiting = self._waiters.members_with(digest)
        for sequence in waiting:
            self._waiters.end_wait(sequence)
        self._update_waiters()
        return waiting

    @property
    def has_fills(self) -> bool:
        return bool(self._fills)

    @property
    def is_filling(self) -> bool:
        """Whether an adapter is being loaded into a slot."""
        return any(slot.is_filling for slot in self._slots)

    def digests(self) -> set[bytes]:
        return set(self._by_digest)

    def take_stats(self, **known: Any) -> AdapterStats:
        """Return the step's adapter statistics, and reset the increments. known: fields known only to the caller."""
        evictions, self._num_evictions = self._num_evictions, 0
        return AdapterStats(
            running=sorted(+self._running_names),
            waiting=self._waiters.names,
            slots_total=len(self._slots),
            slots_used=sum(bool(slot.users) for slot in self._slots),
            slots_cached=sum(slot.adapter is not None and not slot.users for slot in self._slots),
            evictions=evictions,
            **known,
        )

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _update_waiters(self) -> None:
        """Put sequences back in line whose slot is ready, and assign free slots to waiting groups."""
        self._reopen()
        for group in self._waiters.groups():
            slot = self._by_digest.get(group.digest)
            if slot is None and (free := self._free_slot(group.rank)) is not None:
                self._assign(free, self._waiters.members(group)[0])
            elif slot is not None and not slot.is_filling:
                for sequence in self._waiters.members(group):
                    if slot.admits(sequence):
                        self._waiters.put_back(sequence)
        if self._reopen():
            self._update_waiters()

    def _reopen(self) -> bool:
        """Open all slots if some closed slot has no group that waits for it; return whether it did."""
        if self._is_each_closed_for_a_group():
            return False
        for slot in self._slots:
            slot.closed_from = math.inf
        return True

    def _is_each_closed_for_a_group(self) -> bool:
        closed = sorted(slot.closed_from for slot in self._slots if slot.is_closed)
        if not closed:
            return True
        groups = self._groups_without_slot()
        return len(closed) <= len(groups) and all(
            group.rank <= rank for rank, group in zip(closed, groups, strict=False)
        )

    def _groups_without_slot(self) -> list[WaitingGroup]:
        return [group for group in self._waiters.groups() if group.digest not in self._by_digest]

    def _free_slot(self, rank: int) -> Slot | None:
        """Return a slot to reassign for this rank: empty, or the least recently used without users; None if there is
        none. A slot is kept if a waiting sequence of a lower rank needs its adapter."""
        free = [
            slot for slot in self._slots if not slot.users and not slot.is_filling and not self._is_wanted(slot, rank)
        ]
        return min(free, key=lambda slot: (slot.adapter is not None, slot.last_use), default=None)

    def _is_wanted(self, slot: Slot, rank: int) -> bool:
        """Whether a waiting sequence of a lower rank needs the slot's adapter."""
        return self._waiters.is_wanted(None if slot.adapter is None else slot.adapter.digest, rank)

    def _assign(self, slot: Slot, sequence: Sequence) -> None:
        """Order the sequence's adapter to be loaded into the slot, and promise the slot to the sequence."""
        if slot.adapter is not None:
            self._num_evictions += 1
            self._empty(slot)
        adapter = adapter_of(sequence)
        self._num_uses += 1
        slot.adapter, slot.is_filling, slot.last_use = adapter, True, self._num_uses
        slot.users.add(sequence)
        self._by_digest[adapter.digest] = slot
        self._fills.append(Fill(slot.number, adapter))

    def _empty(self, slot: Slot) -> None:
        assert slot.adapter is not None
        del self._by_digest[slot.adapter.digest]
        slot.adapter, slot.closed_from = None, math.inf
        slot.users.clear()

    def check(self, running: list[Sequence], waiting: list[Sequence]) -> None:
        """Assert the class's invariants, given all unfinished sequences."""
        filled = {slot.adapter.digest: slot for slot in self._slots if slot.adapter is not None}
        assert filled == self._by_digest
        for sequence in (each for each in running if each.request.adapter is not None):
            slot = self._slots[sequence.adapter_slot]
            assert sequence in slot.users
            assert not slot.is_filling
            assert slot.adapter is not None
            assert slot.adapter.digest == adapter_of(sequence).digest
        assert all(each.adapter_slot < 0 for each in waiting)
        assert all(slot.users <= {*running, *waiting} for slot in self._slots)
        names = [each.request.adapter.name for each in running if each.request.adapter is not None]
        assert +self._running_names == Counter(names)
        self._waiters.check(waiting)
        for group in self._groups_without_slot():
            assert self._free_slot(group.rank) is None, "a slot is free, and a sequence waits"
        for sequence in (each for each in waiting if Gate.ADAPTER in each.closed_gates):
            own = self._by_digest.get(adapter_of(sequence).digest)
            assert own is None or own.is_filling or not own.admits(sequence), (
                "the slot is there, and a sequence waits for it"
            )
        assert self._is_each_closed_for_a_group()
