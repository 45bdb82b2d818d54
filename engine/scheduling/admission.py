"""Admission: which waiting sequences start in the next step, and which sequences they preempt."""

from engine.protocol.sequence_events import WaitReason
from engine.scheduling.claims import Claims, Victim
from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.fairness.tenants import charge_prompt
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.kv.prefixes import PrefixMatch
from engine.scheduling.lifecycle import Lifecycle
from engine.scheduling.prefix_waits import BranchPoint, PrefixWaits
from engine.scheduling.sequence import Gate, Sequence, SequenceStatus
from engine.scheduling.steps.split import Demand, StepSplit, is_much_shorter
from engine.scheduling.steps.tally import PreemptionReason

_MAX_PASSED = 32  # sequences that get no tokens of a step; those behind them are tried in a later one
_MAX_SET_ASIDE = 256  # sequences of a step, in a burst that shares a prefix
_MAX_BLOCKED = 16  # sequences that cannot be admitted, of as many tenants; others are tried when these are served


class AdmissionRound:
    """Chooses the waiting sequences to admit in a step, least served tenant first, preempting other sequences where
    allowed.

    A sequence that would get no tokens in this step is skipped. A sequence is set aside while another sequence computes
    its prefix. When a sequence cannot be admitted, no sequence behind it may take free slots or blocks: they are
    reserved for it.
    """

    def __init__(
        self, kv: KVManager, lifecycle: Lifecycle, claims: Claims, prefix_waits: PrefixWaits, split: StepSplit
    ) -> None:
        """split: how the step's tokens are split; admitted sequences are added to it, preempted ones removed."""
        self._kv = kv
        self._lifecycle = lifecycle
        self._claims = claims
        self._prefix_waits = prefix_waits
        self._split = split
        self._newcomers: list[Sequence] = []
        self._matches: dict[Sequence, PrefixMatch] = {}  # of the newcomers
        self._preempted: set[Sequence] = set()  # in this round: they have had their turn
        self._num_promised = 0  # blocks that the newcomers take
        self._most_pending: dict[TenantAccount, int] = {}  # of tenants whose longer prompts get no tokens of the step
        self._blocked_rank: int | None = None  # of sequences that cannot be admitted
        self._num_blocked = self._num_passed = self._num_set_aside = 0
        self._num_reserved = self._count_reserved()

    def choose(self) -> list[Sequence]:
        """Return the sequences to admit. The caller admits them after the running sequences have got their blocks."""
        for sequence in self._lifecycle.waiting.in_turn(self._most_pending):
            if sequence in self._preempted:
                continue
            if sequence.service.fills_idle_steps and self._has_others_before(sequence.service.rank):
                break  # also behind paused lines, which continue first
            if self._blocked_rank is not None and sequence.service.rank > self._blocked_rank:
                break
            if not self._has_slot() and not any(map(_frees_slot, self._claims.victims(sequence, 0))):
                if not self._block(sequence):
                    break
                continue
            if self._num_passed >= _MAX_PASSED or self._num_set_aside >= _MAX_SET_ASIDE:
                break
            if self._waits_for_adapter(sequence) or self._waits_for_prefix(sequence, None):
                continue
            if self._waits_for_tier(sequence):
                continue
            match = self._kv.match(sequence)
            demand = self._split.demand(sequence, self._kv.num_uncached(sequence, match))
            if not self._gets_tokens(demand):
                self._lifecycle.note_wait(sequence, WaitReason.TOKENS)
                self._lifecycle.waiting.correct_length(sequence, demand.num_pending)
                self._num_passed += 1
                continue
            if self._waits_for_prefix(sequence, match):
                continue
            if self._make_room(sequence, match):
                self._add(demand, self._kv.match(sequence))
            elif not self._block(sequence):
                break
        return self._newcomers

    def _has_others_before(self, rank: int) -> bool:
        """Whether sequences of lower ranks are running or ready to run, or paused sequences have yet to resume."""
        running = self._lifecycle.running
        if (running and running[0].service.rank < rank) or self._lifecycle.paused:
            return True
        first_rank = self._lifecycle.waiting.first_rank
        return first_rank is not None and first_rank < rank

    def _block(self, sequence: Sequence) -> bool:
        """Record that a sequence cannot be admitted; return whether to try other tenants' sequences."""
        self._lifecycle.note_wait(sequence, self._wait_reason())
        self._most_pending[sequence.account] = 0
        self._blocked_rank = sequence.service.rank
        self._num_blocked += 1
        return self._num_blocked < min(_MAX_BLOCKED, len(self._lifecycle.waiting.accounts(sequence.service.rank)))

    def _wait_reason(self) -> WaitReason:
        if not self._has_slot():
            return WaitReason.SLOTS
        return WaitReason.BLOCKS if self._blocked_rank is None else WaitReason.OTHERS

    def _gets_tokens(self, demand: Demand) -> bool:
        account = demand.sequence.account
        most_pending = self._most_pending.get(account)
        if most_pending is not None and demand.num_pending > most_pending:
            return False
        if self._split.tokens_if_added(demand):
            return True
        longest = self._split.longest_pending(account)
        self._most_pending[account] = 0 if is_much_shorter(demand.num_pending, longest) else longest // 2
        return False

    def _waits_for_adapter(self, sequence: Sequence) -> bool:
        """Return whether the sequence must wait for its adapter; the sequence is set aside then, and does not block the
        sequences behind it."""
        adapters = self._lifecycle.adapters
        if adapters is None or sequence.request.adapter is None or adapters.offer(sequence):
            return False
        self._lifecycle.note_wait(sequence, WaitReason.ADAPTER)
        self._num_set_aside += 1
        return True

    def _waits_for_prefix(self, sequence: Sequence, match: PrefixMatch | None) -> bool:
        """Return whether the sequence should wait, because another sequence computes in this step the full block that
        this sequence needs next.

        If so, the waiting sequence is set aside, and the other sequence will cache all that is needed to continue where
        the two diverge. The wait ends when the shared part is computed or the other sequence has stopped. A sequence
        never waits for a sequence of a higher service rank, which may progress slowly. match: None to check only
        whether the next block is cached, which is cheaper.
        """
        for other, num_tokens in self._split.tokens().items():
            if other.service.rank > sequence.service.rank:
                continue
            of_other = self._matches.get(other)
            num_computed = other.num_computed if of_other is None else of_other.num_tokens
            if num_tokens and (
                num_units := self._kv.num_shareable_units(sequence, match, other, num_computed=num_computed)
            ):
                self._prefix_waits.wait(sequence, BranchPoint(other, num_units))
                self._lifecycle.note_wait(sequence, WaitReason.PREFIX)
                self._num_set_aside += 1
                return True
        return False

    def _waits_for_tier(self, sequence: Sequence) -> bool:
        """Return whether the sequence must wait for blocks that are read from a tier; it is set aside then. Reading
        begins here for sequences that were preempted, and for those that came when memory for reads was short."""
        if not self._kv.start_reading(sequence):
            return False
        sequence.closed_gates.add(Gate.TIER)
        self._lifecycle.waiting.set_aside(sequence)
        self._lifecycle.note_wait(sequence, WaitReason.TIER)
        self._num_set_aside += 1
        return True

    # --- slots and blocks ---------------------------------------------------------------------------------------------

    def _make_room(self, sequence: Sequence, match: PrefixMatch) -> bool:
        """Make room for the sequence, preempting other sequences if needed, and return whether it fits. Preempts as few
        sequences as possible, and none if that would not be enough."""
        if self._blocked_rank is None and self._can_admit(sequence, match):
            return True
        victims = self._claims.victims(sequence, self._kv.capacity.blocks_taken(sequence, match))
        if self._blocked_rank is not None:  # blocks of paused sequences are reserved, as free ones are
            victims = [victim for victim in victims if _frees_slot(victim)]
        if not victims or not self._can_admit(sequence, match, without=victims):
            return False
        for victim, reason in victims:
            if victim.status is SequenceStatus.PAUSED and self._has_blocks(sequence, self._kv.match(sequence)):
                continue  # only a slot is lacking
            self._lifecycle.preempt(victim, reason)
            self._preempted.add(victim)
            self._claims.forget_blocks()
            sequence.has_claimed |= reason is PreemptionReason.FAIRNESS
            self._split.drop(victim)
            self._num_reserved = self._count_reserved()
            if self._can_admit(sequence, self._kv.match(sequence)):
                return True
        return False

    def _has_slot(self, num_more: int = 0) -> bool:
        return self._lifecycle.num_free_slots + num_more > len(self._newcomers)

    def _can_admit(self, sequence: Sequence, match: PrefixMatch, without: list[Victim] | None = None) -> bool:
        """Whether there is a slot, and blocks for all the sequence's tokens besides what running sequences still need:
        with fewer blocks, it might be preempted, its prompt computed in vain. without: victims to preempt first."""
        num_slots = sum(map(_frees_slot, without or ()))
        return self._has_slot(num_slots) and self._has_blocks(sequence, match, without)

    def _has_blocks(self, sequence: Sequence, match: PrefixMatch, without: list[Victim] | None = None) -> bool:
        victims = [victim for victim, _ in without or ()]
        capacity = self._kv.capacity
        running = [victim for victim in victims if victim.status is SequenceStatus.RUNNING]
        num_reserved = (
            self._num_reserved + self._num_promised - sum(capacity.blocks_needed(victim) for victim in running)
        )
        num_states_reserved = len(self._newcomers)
        if self._lifecycle.running or self._newcomers:  # a sequence that runs alone may take all
            is_evicted_first = sequence.service.is_evicted_first
            num_reserved += self._kv.pool.num_protected(is_evicted_first=is_evicted_first)
            num_states_reserved += self._kv.states.num_protected(is_evicted_first=is_evicted_first)
        return capacity.can_admit(
            sequence,
            match,
            num_reserved,
            num_states_reserved=num_states_reserved,
            without=victims,
        )

    def _count_reserved(self) -> int:
        """Return how many more blocks the running sequences need for the tokens that they already have."""
        return sum(self._kv.capacity.blocks_needed(sequence) for sequence in self._lifecycle.running)

    def _add(self, demand: Demand, match: PrefixMatch) -> None:
        sequence = demand.sequence
        self._newcomers.append(sequence)
        self._matches[sequence] = match
        self._num_promised += self._kv.capacity.blocks_taken(sequence, match)
        self._split.add(demand)
        charge_prompt(sequence, max(0, sequence.num_prompt - match.num_tokens))


def _frees_slot(victim: Victim) -> bool:
    """Whether preempting the victim frees a slot; a paused sequence only has blocks."""
    return victim[0].status is SequenceStatus.RUNNING
