"""TenantShares: each tenant's usage of the running slots and blocks, compared with its fair share."""

from collections import abc
from dataclasses import dataclass, field

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.sequence import Sequence

# Weighted tokens, about as many as a short request has. Tenants that are served alike are never quite level, and a
# tenant that is ahead by so little need not wait until another sequence happens to end.
_SLACK = 1024


@dataclass(slots=True)
class _Usage:
    sequences: list[Sequence] = field(default_factory=list)  # running, in the order of service
    blocks: list[int] = field(default_factory=list)  # of each sequence
    num_blocks: int = 0  # of all of them

    def copy(self) -> "_Usage":
        return _Usage(list(self.sequences), list(self.blocks), self.num_blocks)


class TenantShares:
    """Usage of one service class. A tenant's share is its part of the total weight of tenants with sequences in it."""

    def __init__(
        self,
        running: abc.Iterable[tuple[Sequence, int]],
        waiting: abc.Container[TenantAccount],
        *,
        weight_waiting: float,
        num_slots: int,
        num_blocks: int,
    ) -> None:
        """running: sequences with their block counts, in the order of service. weight_waiting: total weight of the
        tenants in `waiting`. num_slots, num_blocks: available to the class."""
        self._usage: dict[TenantAccount, _Usage] = {}  # of tenants with running sequences
        for sequence, blocks in running:
            usage = self._usage.setdefault(sequence.account, _Usage())
            usage.sequences.append(sequence)
            usage.blocks.append(blocks)
            usage.num_blocks += blocks
        self._weight = weight_waiting + sum(account.weight for account in self._usage if account not in waiting)
        self._num_slots = num_slots
        self._num_blocks = num_blocks
        # Few tenants, and mostly none: so `victims` costs little for each of many waiting sequences.
        self._above_share = [account for account, usage in self._usage.items() if self._excess(account, usage) >= 0]

    def victims(self, sequence: Sequence, num_blocks: int) -> list[Sequence]:
        """Return the running sequences, in order, that may be preempted for the waiting `sequence`, which needs
        `num_blocks`. The preempted tenants stay at or above their share, and were served about as much as the tenant of
        `sequence`, or more. Empty if that tenant runs sequences and would exceed its share with `sequence`."""
        own = self._usage.get(sequence.account, _Usage())
        part = self._part(len(own.sequences) + 1, own.num_blocks + num_blocks)
        if own.sequences and part > self._share(sequence.account):
            return []
        most = sequence.account.counter - _SLACK / sequence.account.weight
        left = {
            account: self._usage[account].copy()
            for account in self._above_share
            if account is not sequence.account and account.counter >= most
        }
        victims = []
        while left:
            account = max(left, key=lambda each: self._excess(each, left[each]))
            usage = left[account]
            if self._excess(account, usage) < 0:
                break
            victims.append(usage.sequences.pop())
            usage.num_blocks -= usage.blocks.pop()
        return victims

    def largest(self, *, but: Sequence) -> Sequence:
        """Return the last sequence of the tenant with the most blocks per weight; skip a tenant whose last is `but`."""
        lasts = {account: usage.sequences[-1] for account, usage in self._usage.items() if usage.sequences}
        others = [account for account in lasts if lasts[account] is not but]
        return lasts[max(others, key=lambda account: self._usage[account].num_blocks / account.weight)]

    def _excess(self, account: TenantAccount, usage: _Usage) -> float:
        """Return how far a tenant would be above its share without its last sequence, as a fraction of the share."""
        if not usage.sequences:
            return -1.0
        return self._part(len(usage.sequences) - 1, usage.num_blocks - usage.blocks[-1]) / self._share(account) - 1

    def _part(self, num_sequences: int, num_blocks: int) -> float:
        return max(num_sequences / self._num_slots, num_blocks / self._num_blocks)

    def _share(self, account: TenantAccount) -> float:
        return account.weight / self._weight
