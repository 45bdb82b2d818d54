"""Pauses: sequences of batch jobs that keep their KV blocks while clients' sequences run, to avoid recomputation.

A paused sequence does not count as running, so its place is free for a client's sequence. Its blocks are taken only if
too few are free (claims.py), beginning with the last sequence in the order of service.
"""

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.lifecycle import Lifecycle
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.tally import PreemptionReason

_MOST_NEW_STATES = 2  # of a step of one sequence: the state after it, and a checkpoint


class Pauses:
    """Resumes paused sequences, and preempts them before they push clients' prefixes out of the cache."""

    def __init__(self, kv: KVManager, lifecycle: Lifecycle) -> None:
        self._kv = kv
        self._lifecycle = lifecycle
        self._counted: list[Sequence] = []  # the paused sequences that were counted
        self._num_used: dict[BlockPool, int] = {}  # their blocks; shared ones count once

    def resume(self) -> bool:
        """Resume all paused sequences, unless a sequence of a lower service rank runs or is ready; return whether they
        were resumed."""
        paused, running = self._lifecycle.paused, self._lifecycle.running
        if not paused:
            self._forget()
            return False
        rank, first_rank = paused[0].service.rank, self._lifecycle.waiting.first_rank
        if (running and running[0].service.rank < rank) or (first_rank is not None and first_rank < rank):
            return False
        while running:  # classes that come after them
            self._lifecycle.preempt(running[-1], PreemptionReason.SERVICE_CLASS)
        for sequence in list(paused):
            self._lifecycle.resume(sequence)
        self._forget()
        return True

    def spare_prefixes(self, sequence: Sequence, num_tokens: int) -> None:
        """Preempt paused sequences while they use more than half of a pool, and allocating the first `num_tokens`
        tokens of a client's sequence would evict clients' cached prefixes."""
        paused = self._lifecycle.paused
        if not paused or paused[0].service.rank < sequence.service.rank:
            return
        self._spare(self._kv.pool, self._kv.num_new_blocks(sequence, num_tokens))
        self._spare(self._kv.states, _MOST_NEW_STATES)

    def _spare(self, pool: BlockPool, num_new: int) -> None:
        paused = self._lifecycle.paused
        while paused and pool.num_unprotected < num_new and self._count_used(pool) > pool.num_blocks // 2:
            self._lifecycle.preempt(paused[-1], PreemptionReason.SERVICE_CLASS)

    def _count_used(self, pool: BlockPool) -> int:
        """Return the number of blocks in the pool that paused sequences use. Cached while the same sequences are
        paused: the blocks may be most of the pool, and almost every block that a client needs asks for the count."""
        paused = list(self._lifecycle.paused)
        if paused != self._counted:
            self._counted, self._num_used = paused, {}
        if pool not in self._num_used:
            self._num_used[pool] = self._num_blocks(pool)
        return self._num_used[pool]

    def _num_blocks(self, pool: BlockPool) -> int:
        return len({block for sequence in self._lifecycle.paused for block in self._kv.capacity.blocks(sequence, pool)})

    def _forget(self) -> None:
        self._counted, self._num_used = [], {}

    def check(self) -> None:
        if self._counted == list(self._lifecycle.paused):
            assert all(num == self._num_blocks(pool) for pool, num in self._num_used.items())
