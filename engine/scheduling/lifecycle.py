"""Lifecycle: the unfinished sequences, and every change of a sequence's status.

add ──> WAITING ──admit──> RUNNING ──finish──> FINISHED
           ^                │ │  ^
           ├────preempt─────┘ │  │     also WAITING ──finish──> FINISHED and PAUSED ──finish──> FINISHED, for aborts
           │            pause │  │ resume
           │                  v  │
           └────preempt───── PAUSED
"""

from collections import Counter
from collections.abc import Callable

from engine.protocol import ServiceClass
from engine.protocol.sequence_events import Admitted, Paused, Preempted, Queued, Resumed, WaitReason, Waits
from engine.scheduling.adapters.slots import AdapterSlots
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.fairness.fair_queue import FairQueue
from engine.scheduling.fairness.service_queue import ServiceQueue
from engine.scheduling.fairness.tenants import Tenants, refund_uncomputed
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.kv.prefixes import PrefixMatch
from engine.scheduling.kv.tier_reads import TierReads
from engine.scheduling.sequence import Gate, Sequence, SequenceStatus
from engine.scheduling.steps.tally import PreemptionReason, StepTally


class Lifecycle:
    """Queues of unfinished sequences by status.

    Invariants: an unfinished sequence is in exactly one of `waiting`, `running` and `paused`, and in `sequences` under
    its id; waiting sequences have no blocks, and only running ones have a draft. No running sequence has the service
    class of a paused one. A tenant's account counts its running sequences.

    tally: the counters of the current step.
    """

    def __init__(self, config: SchedulerConfig, kv: KVManager, clock: Callable[[], float]) -> None:
        self.tally = StepTally()
        self._clock = clock
        self._kv = kv
        self._max_num_seqs = config.max_num_seqs
        self.sequences: dict[str, Sequence] = {}
        self.tenants = Tenants()
        self.waiting = FairQueue()
        self.running = ServiceQueue()
        self.paused = ServiceQueue()
        num_slots = config.num_adapter_slots
        self.adapters = AdapterSlots(num_slots, self.waiting, clock) if num_slots else None

    @property
    def num_free_slots(self) -> int:
        return self._max_num_seqs - len(self.running)

    @property
    def num_tenants_running(self) -> int:
        """Number of tenants with a running sequence that client metrics count."""
        return len({each.account.name for each in self.running if each.service.is_counted})

    @property
    def num_pending_prompt_tokens(self) -> int:
        """Uncomputed tokens of clients' running sequences, without the last token of each, which counts as decoding."""
        if not self.running.num_counted:
            return 0
        behind = [len(each.tokens) - each.num_computed - 1 for each in self.running]  # without calls that add up
        return sum([num_pending for num_pending in behind if num_pending > 0])

    def add(self, sequence: Sequence) -> None:
        self.sequences[sequence.id] = sequence
        sequence.account = self.tenants.account(sequence)
        num_running, num_waiting = len(self.running), len(self.waiting)
        if self._kv.start_reading(sequence):
            sequence.closed_gates.add(Gate.TIER)
        sequence.num_to_compute = self._kv.num_uncached(sequence)
        self.waiting.add_new(sequence)
        if self.adapters is not None and sequence.request.adapter is not None:
            self.adapters.join(sequence)
        self.tally.note(sequence, Queued(sequence.id, self._clock(), num_running, num_waiting, sequence.num_output))
        if not sequence.is_ready:
            is_compiling = Gate.GRAMMAR in sequence.closed_gates
            self.note_wait(sequence, WaitReason.GRAMMAR if is_compiling else WaitReason.TIER)

    def open_gate(self, sequence: Sequence, gate: Gate) -> None:
        """Open a gate of a waiting sequence, and queue the sequence for admission if no other gate is closed."""
        sequence.closed_gates.discard(gate)
        if sequence.is_ready:
            self.waiting.put_back(sequence)

    def collect_reads(self, tier_reads: TierReads) -> None:
        """Open the gates of sequences whose blocks have been read from a tier."""
        for sequence in tier_reads.collect():
            sequence.num_to_compute = self._kv.num_uncached(sequence)
            self.open_gate(sequence, Gate.TIER)

    def admit(self, sequence: Sequence, match: PrefixMatch) -> None:
        """Move a waiting sequence to the running ones; its first step continues after the cached prefix."""
        self.waiting.remove(sequence)
        if self.adapters is not None and sequence.request.adapter is not None:
            self.adapters.admit(sequence)
        self._kv.admit(sequence, match)
        sequence.status = SequenceStatus.RUNNING
        sequence.num_admitted += 1
        sequence.account.num_running += 1
        sequence.wait_reason = None
        self.running.add(sequence)
        self.tally.note(sequence, Admitted(sequence.id, self._clock(), sequence.num_computed))

    def note_wait(self, sequence: Sequence, reason: WaitReason) -> None:
        """Record why a waiting sequence is not admitted, unless the reason is the same as before."""
        if sequence.wait_reason is not reason:
            sequence.wait_reason = reason
            is_shared = self.running.num_of(sequence.request.service_class) > sequence.account.num_running
            self.tally.note(sequence, Waits(sequence.id, self._clock(), reason, is_shared))

    def preempt(self, sequence: Sequence, reason: PreemptionReason) -> None:
        """Free the blocks of a running or paused sequence and requeue it; its uncached part is recomputed."""
        num_with_blocks = len(self.running) + len(self.paused)
        assert num_with_blocks > 1 or reason is not PreemptionReason.MEMORY, "a sequence that runs alone always fits"
        self._requeue(sequence, reason.value)
        self.tally.count_preemption(sequence, reason)

    def withdraw(self, sequence: Sequence) -> None:
        """Requeue a running sequence whose step ran out of memory. Unlike `preempt`, may requeue the only sequence."""
        sequence.num_withdrawn += 1
        self._requeue(sequence, "out_of_memory", is_saved=False)  # copies of its blocks need memory, too

    def pause(self, sequence: Sequence) -> None:
        """Stop running a sequence, which keeps its KV blocks."""
        sequence.draft = []
        self._kv.trim(sequence, sequence.num_computed)
        self._dequeue(sequence)
        sequence.status = SequenceStatus.PAUSED
        self.paused.add(sequence)
        self.tally.note(sequence, Paused(sequence.id, self._clock()))

    def resume(self, sequence: Sequence) -> None:
        """Run a paused sequence again from where it stopped."""
        self.paused.remove(sequence)
        sequence.status = SequenceStatus.RUNNING
        sequence.account.num_running += 1
        self.running.add(sequence)
        self.tally.note(sequence, Resumed(sequence.id, self._clock()))

    def _dequeue(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.PAUSED:
            self.paused.remove(sequence)
        else:
            self.running.remove(sequence)
            sequence.account.num_running -= 1

    def _requeue(self, sequence: Sequence, reason: str, *, is_saved: bool = True) -> None:
        assert not sequence.num_ahead, "a launched step would write to the blocks"
        self._dequeue(sequence)
        self._kv.free(sequence, is_saved=is_saved)
        now_s, num_lost = self._clock(), sequence.num_computed
        sequence.num_computed_at_preemption = max(sequence.num_computed_at_preemption, num_lost)
        sequence.num_computed = 0
        sequence.draft = []
        sequence.preempted_s.append(now_s)
        self.tally.note(sequence, Preempted(sequence.id, now_s, reason, num_lost))
        sequence.status = SequenceStatus.WAITING
        sequence.num_to_compute = self._kv.num_uncached(sequence)
        self.waiting.add(sequence)
        if self.adapters is not None and sequence.request.adapter is not None:
            self.adapters.preempt(sequence)

    def finish(self, sequence: Sequence, *, is_failed: bool) -> None:
        """Remove a sequence and free its blocks, but for those to which a launched step writes. is_failed: its KV may
        be wrong, and is not kept as a cached prefix."""
        del self.sequences[sequence.id]
        if sequence.num_ahead:
            self._kv.hold(sequence)
        if sequence.status is SequenceStatus.WAITING:
            self.waiting.remove(sequence)
        else:
            self._dequeue(sequence)
        if self.adapters is not None and sequence.request.adapter is not None:
            self.adapters.leave(sequence)
        refund_uncomputed(sequence)
        self.waiting.advance(sequence)
        if is_failed:
            self._kv.end_pins(sequence)
        if self._kv.tier_reads is not None:
            self._kv.tier_reads.forget(sequence)
            if is_failed:
                self._kv.discard_in_tier(sequence)
        if is_failed or not sequence.service.stays_cached:
            self._kv.discard(sequence)
        else:
            if sequence.num_shared:
                self._kv.tails.register(sequence)
            self._kv.free(sequence)
        sequence.continues = None
        sequence.status = SequenceStatus.FINISHED
        if not self.sequences:
            self.tenants.clear()
            self.waiting.forget_tenants()

    def take_tally(self) -> StepTally:
        tally, self.tally = self.tally, StepTally()
        return tally

    def check(self) -> None:
        """Assert the invariants of all sequences and blocks."""
        running, waiting, paused = list(self.running), list(self.waiting), list(self.paused)
        assert {each.id for each in running + waiting + paused} == set(self.sequences)
        assert len(running) + len(waiting) + len(paused) == len(self.sequences)
        assert max(len(running), len(paused)) <= self._max_num_seqs
        for queue in (self.running, self.waiting, self.paused):
            assert queue.num_counted == sum(sequence.service.is_counted for sequence in queue)
            classes = Counter(sequence.request.service_class for sequence in queue)
            assert all(queue.num_of(each) == classes[each] for each in ServiceClass)
        num_running = Counter(sequence.account for sequence in running)
        assert all(each.account.num_running == num_running[each.account] for each in self.sequences.values())
        for sequence in running:
            assert sequence.status is SequenceStatus.RUNNING
            assert 0 <= sequence.num_computed < sequence.num_with_draft, sequence.id
        for sequence in paused:
            assert sequence.status is SequenceStatus.PAUSED
            assert 0 <= sequence.num_computed < len(sequence.tokens), sequence.id
            assert sequence.draft == [], sequence.id
            assert all(each.request.service_class is not sequence.request.service_class for each in running)
        for sequence in waiting:
            assert sequence.status is SequenceStatus.WAITING
            assert sequence.num_computed == 0, sequence.id
            assert sequence.tables == sequence.draft == [], sequence.id
        self.waiting.check()
        if self.adapters is not None:
            self.adapters.check(running + paused, waiting)
        self._kv.check(running + paused)
        if self._kv.tier_reads is not None:
            self._kv.tier_reads.check(self.sequences.values(), {s for s in waiting if Gate.TIER in s.closed_gates})
