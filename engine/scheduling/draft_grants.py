"""DraftGrants: which blocks drafts may have. No sequence gives way to a draft."""

from collections import abc

from engine.scheduling.kv.manager import KVManager
from engine.scheduling.lifecycle import Lifecycle
from engine.scheduling.sequence import Sequence, SequenceStatus


class DraftGrants:
    """Grants blocks before a draft is known, and frees those that it turns out not to need."""

    def __init__(self, kv: KVManager, lifecycle: Lifecycle) -> None:
        self._kv = kv
        self._lifecycle = lifecycle

    def grant(self, requested: abc.Iterable[tuple[Sequence, int]]) -> list[int]:
        """How many draft tokens each of these sequences may have, at most the number requested.

        As many as there are blocks for, which are the sequence's from now on until `set_draft` says how many of them it
        uses. The blocks that others need for their known tokens are reserved first.
        """
        num_free = self._num_unreserved_blocks()
        granted = []
        for sequence, num_tokens in requested:
            assert sequence.status is SequenceStatus.RUNNING
            assert sequence.num_pending == 1
            assert num_tokens < sequence.num_remaining, "verification always brings one token more"
            num_known, num_own = len(sequence.tokens), self._kv.room.num_needed(sequence)
            num_fitting = self._kv.max_tokens_that_fit(sequence, num_known + num_tokens, num_free=num_free + num_own)
            if num_fitting > num_known:
                num_free += num_own - self._kv.allocate_blocks(sequence, num_fitting)
            granted.append(max(0, num_fitting - num_known))
        return granted

    def set_draft(self, sequence: Sequence, token_ids: list[int]) -> None:
        sequence.draft = token_ids
        self._kv.trim(sequence, sequence.num_with_draft)

    def _num_unreserved_blocks(self) -> int:
        """Free blocks beyond those needed for known tokens: of running sequences, and of the one to admit next."""
        lifecycle = self._lifecycle
        num_reserved = sum(self._kv.room.num_needed(sequence) for sequence in lifecycle.running)
        num_free = self._kv.pool.num_free - num_reserved
        if not lifecycle.has_free_place or (next_to_admit := lifecycle.waiting.first) is None:
            return num_free
        match = self._kv.match(next_to_admit)
        num_free_after = self._kv.room.num_free_after(next_to_admit, match, num_reserved)
        return num_free_after if num_free_after >= 0 else num_free  # one that cannot be admitted anyway needs nothing
