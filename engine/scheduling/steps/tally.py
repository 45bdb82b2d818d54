"""StepTally: counters of one step, from which its StepStats is made."""

import enum
from dataclasses import dataclass, field

from engine.protocol.sequence_events import Computed, SequenceEvent
from engine.scheduling.fairness.service_rules import CountedAs
from engine.scheduling.sequence import Sequence


class PreemptionReason(enum.StrEnum):
    """Reasons for which a running sequence gives up its blocks."""

    MEMORY = "memory"  # a sequence before it in the order needed blocks to continue
    SERVICE_CLASS = "service_class"
    PRIORITY = "priority"
    FAIRNESS = "fairness"  # for a tenant that had less than its share of slots or blocks


@dataclass(slots=True)
class ClassTally:
    """Counters of one step for one kind of sequences, clients' or batch jobs'."""

    prefill_tokens: int = 0
    decode_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: dict[PreemptionReason, int] = field(default_factory=lambda: dict.fromkeys(PreemptionReason, 0))

    @property
    def num_preemptions(self) -> int:
        return sum(self.preemptions.values())


@dataclass(slots=True)
class StepTally:
    """Counters of one step, named as in StepStats. Tokens and preemptions of batch jobs are counted in `batch`;
    sequences whose service class is not counted add none, and no events."""

    clients: ClassTally = field(default_factory=ClassTally)
    batch: ClassTally = field(default_factory=ClassTally)
    prefix_queries: int = 0
    prefix_hits: int = 0
    prefix_restored: int = 0
    forced_tokens: int = 0
    memory_shortages: int = 0
    corrupted: int = 0
    events: list[SequenceEvent] = field(default_factory=list)

    def _of(self, sequence: Sequence) -> ClassTally | None:
        if sequence.service.is_counted:
            return self.clients
        return self.batch if sequence.service.counted_as is CountedAs.BATCH else None

    def count_computed(self, sequence: Sequence, start: int, num_new: int, now_s: float) -> None:
        """Count the `num_new` tokens of a sequence that were computed from position `start` on."""
        if (tally := self._of(sequence)) is None:
            return
        num_known = max(sequence.num_prompt, sequence.num_computed_at_preemption) - start
        if num_known <= 0:
            tally.decode_tokens += num_new
            sequence.num_decode_steps += 1
            return
        num_left = max(0, num_known - num_new)
        num_known = min(num_new, num_known)
        self.events.append(Computed(sequence.id, now_s, num_known, num_left))
        tally.prefill_tokens += num_known
        tally.decode_tokens += num_new - num_known
        tally.recomputed_tokens += min(num_new, max(0, sequence.num_computed_at_preemption - start))

    def count_prefix_lookup(self, sequence: Sequence, num_restored: int) -> None:
        """Count the prompt tokens, and the cached ones, of a sequence that was admitted for the first time.
        num_restored: cached ones that came from a tier."""
        if sequence.service.is_counted:
            self.prefix_queries += sequence.num_prompt
            self.prefix_hits += sequence.num_computed
            self.prefix_restored += num_restored

    def note(self, sequence: Sequence, event: SequenceEvent) -> None:
        if self._of(sequence) is not None:
            self.events.append(event)

    def count_preemption(self, sequence: Sequence, reason: PreemptionReason) -> None:
        if (tally := self._of(sequence)) is not None:
            tally.preemptions[reason] += 1
