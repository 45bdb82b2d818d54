"""Lifecycle: the unfinished sequences, and every change of a sequence's status.

add ──> WAITING ──admit──> RUNNING ──finish──> FINISHED
           ^                  │
           └──────preempt─────┘        also WAITING ──finish──> FINISHED, for aborts
"""

import time
from collections import Counter
from collections.abc import Callable

from engine.protocol import ServiceClass
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.kv.prefixes import PrefixMatch
from engine.scheduling.queue import ServiceQueue
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.scheduling.step_tally import StepTally


class Lifecycle:
    """Invariants: an unfinished sequence is in exactly one of `waiting` and `running`, and in `sequences` under its id;
    only running ones have blocks and a draft.

    tally: of the current step.
    """

    def __init__(self, kv: KVManager, *, max_num_seqs: int, clock: Callable[[], float] = time.monotonic) -> None:
        """max_num_seqs: that run at once."""
        self.tally = StepTally()
        self._clock = clock
        self._kv = kv
        self._max_num_seqs = max_num_seqs
        self.sequences: dict[str, Sequence] = {}
        self.waiting = ServiceQueue()
        self.running = ServiceQueue()

    @property
    def has_free_place(self) -> bool:
        return len(self.running) < self._max_num_seqs

    def add(self, sequence: Sequence) -> None:
        self.sequences[sequence.id] = sequence
        self.waiting.add(sequence)

    def admit(self, sequence: Sequence, match: PrefixMatch) -> None:
        """Let a waiting sequence run, from its cached prefix on."""
        self.waiting.remove(sequence)
        self._kv.admit(sequence, match)
        sequence.status = SequenceStatus.RUNNING
        sequence.num_admitted += 1
        self.running.add(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Free the blocks of a running sequence. It waits, and is computed again, less what is still cached then."""
        assert len(self.running) > 1 or sequence.service.yields, "a sequence that runs alone always fits"
        self.running.remove(sequence)
        self._kv.free(sequence)
        sequence.num_computed_at_preemption = max(sequence.num_computed_at_preemption, sequence.num_computed)
        sequence.num_computed = 0
        sequence.draft = []
        sequence.preempted_s.append(self._clock())
        sequence.status = SequenceStatus.WAITING
        self.waiting.add(sequence)
        self.tally.count_preemption(sequence)

    def finish(self, sequence: Sequence, *, is_failed: bool) -> None:
        """Free and forget a sequence. is_failed: what it computed may be wrong."""
        del self.sequences[sequence.id]
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        if is_failed or not sequence.service.stays_cached:
            self._kv.discard(sequence)
        else:
            self._kv.free(sequence)
        sequence.status = SequenceStatus.FINISHED

    def take_tally(self) -> StepTally:
        """What happened since the last call."""
        tally, self.tally = self.tally, StepTally()
        return tally

    def check(self) -> None:
        """Assert the invariants of all sequences and blocks."""
        running, waiting = list(self.running), list(self.waiting)
        assert {s.id for s in running} | {s.id for s in waiting} == set(self.sequences)
        assert len(running) + len(waiting) == len(self.sequences)
        assert len(running) <= self._max_num_seqs
        for queue in (self.running, self.waiting):
            assert queue.num_counted == sum(sequence.service.is_counted for sequence in queue)
            classes = Counter(sequence.request.service_class for sequence in queue)
            assert all(queue.num_of(each) == classes[each] for each in ServiceClass)
        for sequence in running:
            assert sequence.status is SequenceStatus.RUNNING
            assert 0 <= sequence.num_computed < sequence.num_with_draft, sequence.id
        for sequence in waiting:
            assert sequence.status is SequenceStatus.WAITING
            assert sequence.num_computed == 0, sequence.id
            assert sequence.tables == sequence.draft == [], sequence.id
        self._kv.check(running)
