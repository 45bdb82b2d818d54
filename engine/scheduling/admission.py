"""Admission: which waiting sequences the next step begins with, and whose room they take."""

from dataclasses import dataclass, field
from typing import NamedTuple

from engine.events.sequence import WaitReason
from engine.scheduling.claims import Claims, Victim
from engine.scheduling.kv.manager import KVManager
from engine.scheduling.kv.prefixes import PrefixMatch
from engine.scheduling.lifecycle import Lifecycle
from engine.scheduling.sequence import Sequence
from engine.scheduling.step_split import Demand, StepSplit, is_much_shorter
from engine.scheduling.step_tally import PreemptionReason
from engine.scheduling.tenant_account import TenantAccount
from engine.scheduling.tenants import charge_prompt

_MAX_BLOCKED = 16  # sequences that find no room, of as many tenants; others are asked when these are served


class BranchPoint(NamedTuple):
    """A sequence that computes in this step what a waiting one will share: its first `num_blocks` blocks."""

    sequence: Sequence
    num_blocks: int


@dataclass(slots=True)
class Admission:
    """What was decided for one step: these sequences are admitted when those that run have their blocks."""

    newcomers: list[Sequence] = field(default_factory=list)
    branch_points: list[BranchPoint] = field(default_factory=list)


class AdmissionRound:
    """Chooses newcomers, the least served tenant's first; preempts where one may take the room of others.

    Passed over are sequences that are not ready, that wait for a prefix which is being computed, and for which nothing
    is left of the step. Behind one that finds no room nobody takes what is free: it is for that one.
    """

    def __init__(self, kv: KVManager, lifecycle: Lifecycle, claims: Claims, split: StepSplit) -> None:
        """split: of the running sequences; newcomers are added, and those that are preempted dropped."""
        self._kv = kv
        self._lifecycle = lifecycle
        self._claims = claims
        self._split = split
        self._admission = Admission()
        self._matches: dict[Sequence, PrefixMatch] = {}  # of the newcomers
        self._num_promised = 0  # blocks that they take
        self._most_pending: dict[TenantAccount, int] = {}  # for tenants whose longer prompts get nothing of the step
        self._blocked_rank: int | None = None  # of those that find no room
        self._num_blocked = 0
        self._num_reserved = self._count_reserved()

    def choose(self) -> Admission:
        for sequence in self._lifecycle.waiting:
            if not sequence.is_ready:
                self._lifecycle.note_wait(sequence, WaitReason.GRAMMAR)
                continue
            if self._most_pending.get(sequence.account) == 0:
                continue
            if self._blocked_rank is not None and sequence.service.rank > self._blocked_rank:
                break
            if not self._has_place() and not self._claims.victims(sequence, 0):
                if not self._block(sequence):
                    break
                continue
            match = self._kv.match(sequence)
            demand = self._split.demand(sequence, sequence.num_pending - match.num_tokens)
            if not self._gets_tokens(demand):
                self._lifecycle.note_wait(sequence, WaitReason.TOKENS)
            elif self._waits_for_prefix(sequence, match):
                self._lifecycle.note_wait(sequence, WaitReason.PREFIX)
            elif self._find_room(sequence, match):
                self._add(demand, self._kv.match(sequence))
            elif not self._block(sequence):
                break
        return self._admission

    def _block(self, sequence: Sequence) -> bool:
        """Note that a sequence finds no room; returns whether to ask if one of another tenant may claim some."""
        self._lifecycle.note_wait(sequence, self._missing())
        self._most_pending[sequence.account] = 0
        self._blocked_rank = sequence.service.rank
        self._num_blocked += 1
        return self._num_blocked < min(_MAX_BLOCKED, len(self._lifecycle.waiting.accounts(sequence.service.rank)))

    def _missing(self) -> WaitReason:
        """What the next sequence without room lacks."""
        if not self._has_place():
            return WaitReason.PLACES
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

    def _waits_for_prefix(self, sequence: Sequence, match: PrefixMatch) -> bool:
        """Whether another computes the next full block of a waiting sequence in this step. Then it will also leave what
        the waiting one needs to continue where the two part.

        The wait ends when the block can be shared, or its owner has stopped: only sequences of this step count.
        """
        for other, num_tokens in self._split.tokens().items():
            of_other = self._matches.get(other)
            num_computed = other.num_computed if of_other is None else of_other.num_tokens
            if num_tokens and (
                num_blocks := self._kv.num_shareable_blocks(sequence, match, other, num_computed=num_computed)
            ):
                self._admission.branch_points.append(BranchPoint(other, num_blocks))
                return True
        return False

    # --- room ---------------------------------------------------------------------------------------------------------

    def _find_room(self, sequence: Sequence, match: PrefixMatch) -> bool:
        """Whether there is room, be it that of others, who are preempted then: as few as possible, and none in vain."""
        if self._blocked_rank is None and self._has_room(sequence, match):
            return True
        victims = self._claims.victims(sequence, self._kv.room.num_taken(sequence, match))
        if not victims or not self._has_room(sequence, match, without=victims):
            return False
        for victim, reason in victims:
            self._lifecycle.preempt(victim, reason)
            sequence.has_claimed |= reason is PreemptionReason.FAIRNESS
            self._split.drop(victim)
            self._num_reserved = self._count_reserved()
            if self._has_room(sequence, self._kv.match(sequence)):
                return True
        return False

    def _has_place(self, num_more: int = 0) -> bool:
        return self._lifecycle.num_free_places + num_more > len(self._admission.newcomers)

    def _has_room(self, sequence: Sequence, match: PrefixMatch, without: list[Victim] | None = None) -> bool:
        """Whether there is a place, and blocks for all known tokens beside what others still need for theirs: a prompt
        that is begun and then preempted for lack of blocks was computed for nothing."""
        victims = [victim for victim, _ in without or ()]
        room = self._kv.room
        num_reserved = self._num_reserved + self._num_promised - sum(room.num_needed(victim) for victim in victims)
        return self._has_place(len(victims)) and room.can_admit(
            sequence,
            match,
            num_reserved,
            num_states_reserved=len(self._admission.newcomers),
            without=victims,
        )

    def _count_reserved(self) -> int:
        """Blocks that running sequences still need for their known tokens."""
        return sum(self._kv.room.num_needed(sequence) for sequence in self._lifecycle.running)

    def _add(self, demand: Demand, match: PrefixMatch) -> None:
        sequence = demand.sequence
        self._admission.newcomers.append(sequence)
        self._matches[sequence] = match
        self._num_promised += self._kv.room.num_taken(sequence, match)
        self._split.add(demand)
        charge_prompt(sequence, max(0, sequence.num_prompt - match.num_tokens))
