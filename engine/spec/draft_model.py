"""DraftModel: a small model that shares the target's block ids and drafts for many sequences at once.

For each of the target's sequences it keeps a shadow: another Sequence over the very same tokens and blocks, with a
num_computed of its own, and drafting is running plans of shadows. KV of drafted tokens that were not accepted is
overwritten, as in the target. What the draft has computed of a block that many may share is remembered under the
block's digest, so that prefix hits and preemption spare the draft what they spare the target.

The draft computes nothing for a sequence until it is to draft for it; then it catches up with the context first.
"""

import time
from dataclasses import dataclass, field
from typing import Protocol

import torch

from engine.plan import PlanItem, StepPlan
from engine.sampling.rejection import agreeing_prefix
from engine.sequence import Sequence, SequenceStatus

# Rows that are computed along with the first drafted token; who lags further catches up in a pass of its own.
_MAX_LAG = 16


@dataclass(frozen=True, slots=True)
class NextTokens:
    """For each item that needs logits a token, or None where the draft has nothing sound to say, and the distribution
    that it was drawn from ([V] fp32, V the target's), or None where it is the most likely one."""

    token_ids: list[int | None]
    probabilities: list[torch.Tensor | None]


class DraftRunner(Protocol):
    """Executes plans of shadows on the draft model."""

    def next_tokens(self, plan: StepPlan) -> NextTokens: ...

    def can_read(self, token_ids: list[int]) -> bool:
        """Whether the draft has embeddings for all of these tokens."""

    def release(self, sequence: Sequence) -> None: ...


@dataclass(slots=True)
class _Shadow:
    """Invariant: the draft's KV of the first `sequence.num_computed` tokens is in the blocks, those of `fed` at their
    end being guesses until `settle` has compared them with what was accepted."""

    sequence: Sequence
    num_admitted: int  # of the target's sequence, when its blocks were looked at
    num_tokens: int = 0  # accepted tokens when it drafted last
    fed: list[int] = field(default_factory=list)  # drafted tokens computed after them
    num_registered: int = 0  # blocks remembered under their digest
    num_checked: int = 0  # tokens known to be readable
    is_readable: bool = True


class DraftModel:
    """Drafts for the speculator.

    probabilities: of the drafts since the last `begin_step`, by sequence: [k, V], where tokens were drawn at random.
    The same mapping for life: the sampler, which verifies against it, holds it too.
    """

    def __init__(
        self, runner: DraftRunner, *, block_size: int, max_len: int, kv_group: int = 0, relative_size: float = 0.0
    ) -> None:
        """max_len: most tokens of the draft model's context. kv_group: of the target's, whose blocks are shared.
        relative_size: bytes of the draft's weights over the target's."""
        self._runner = runner
        self._block_size = block_size
        self._max_len = max_len
        self._kv_group = kv_group
        self.relative_size = relative_size
        self._shadows: dict[str, _Shadow] = {}
        self._digests: dict[int, bytes] = {}  # of blocks that the draft has computed whole
        self.probabilities: dict[str, torch.Tensor] = {}
        self.seconds_per_pass: float | None = None

    def begin_step(self) -> None:
        """Forget the last step's drafts, which have been verified or dropped."""
        self.probabilities.clear()

    def draft(self, lengths: list[tuple[Sequence, int]], spare_tokens: int) -> list[list[int]]:
        """The drafts of these sequences, at most as long as asked for; see Drafter. The blocks of each cover its tokens
        and its draft."""
        ready: list[tuple[_Shadow, int]] = []
        for target, length in lengths:
            shadow = self._synced(target)
            if not shadow.is_readable or len(target.tokens) + length > self._max_len:
                continue
            spare_tokens -= self._catch_up(shadow, spare_tokens)
            if shadow.sequence.num_pending <= _MAX_LAG:
                ready.append((shadow, length))
        start_s = time.perf_counter()
        num_passes = self._run_passes(ready)
        self.seconds_per_pass = (time.perf_counter() - start_s) / num_passes if num_passes else None
        drafts = {shadow.sequence.id: shadow.sequence.draft for shadow, _ in ready}
        for shadow, _ in ready:
            shadow.fed = shadow.sequence.draft[:-1]  # the last one has only been proposed
            shadow.sequence.draft = []
        return [drafts.get(target.id, []) for target, _ in lengths]

    def release(self, sequence: Sequence) -> None:
        self._shadows.pop(sequence.id, None)
        self._runner.release(sequence)

    # --- books --------------------------------------------------------------------------------------------------------

    def _synced(self, target: Sequence) -> _Shadow:
        """The target's shadow, with what has become of the target since the last call."""
        shadow = self._shadows.get(target.id)
        if shadow is None or shadow.num_admitted != target.num_admitted:
            shadow = self._new_shadow(target)
        sequence = shadow.sequence
        sequence.tables = [target.tables[self._kv_group]]
        num_right = agreeing_prefix(shadow.fed, target.tokens[shadow.num_tokens :])
        sequence.num_computed = min(sequence.num_computed, shadow.num_tokens + num_right)
        shadow.fed = []
        shadow.num_tokens = len(target.tokens)
        self._register(shadow, target)
        self._match(shadow, target)
        if shadow.num_checked < len(target.tokens):
            shadow.is_readable = shadow.is_readable and self._runner.can_read(target.tokens[shadow.num_checked :])
            shadow.num_checked = len(target.tokens)
        return shadow

    def _new_shadow(self, target: Sequence) -> _Shadow:
        sequence = Sequence(
            request=target.request,
            seed=target.seed,
            tokens=target.tokens,  # the same list: it grows with the target's
            num_prompt=target.num_prompt,
            status=SequenceStatus.RUNNING,
        )
        shadow = _Shadow(sequence, target.num_admitted)
        self._shadows[target.id] = shadow
        return shadow

    def _match(self, shadow: _Shadow, target: Sequence) -> None:
        """Take over blocks that the draft has computed for others, or before a preemption."""
        sequence, size = shadow.sequence, self._block_size
        (blocks,) = sequence.tables
        num_full = min((len(target.tokens) - 1) // size, len(target.block_hashes), len(blocks))
        index = sequence.num_computed // size
        while index < num_full and self._digests.get(blocks[index]) == target.block_hashes[index]:
            index += 1
        sequence.num_computed = max(sequence.num_computed, index * size)
        shadow.num_registered = max(shadow.num_registered, index)

    def _register(self, shadow: _Shadow, target: Sequence) -> None:
        """Remember blocks of accepted tokens that the draft has filled."""
        (blocks,) = shadow.sequence.tables
        num_full = min(shadow.sequence.num_computed // self._block_size, len(target.block_hashes))
        for index in range(shadow.num_registered, num_full):
            self._digests[blocks[index]] = target.block_hashes[index]
        shadow.num_registered = max(shadow.num_registered, num_full)

    # --- passes -------------------------------------------------------------------------------------------------------

    def _catch_up(self, shadow: _Shadow, spare_tokens: int) -> int:
        """Compute up to `spare_tokens` of a context that the draft lags behind in; returns how many."""
        sequence = shadow.sequence
        num_new = min(sequence.num_pending - 1, spare_tokens)
        if sequence.num_pending <= _MAX_LAG or num_new <= 0:
            return 0
        self._run([PlanItem(sequence, num_new, num_draft=0, needs_logits=False)])
        return num_new

    def _run_passes(self, ready: list[tuple[_Shadow, int]]) -> int:
        """One token a sequence and pass, until each has its length; returns the number of passes."""
        num_passes = 0
        distributions: dict[str, list[torch.Tensor]] = {}
        drafting = [shadow.sequence for shadow, _ in ready]
        lengths = {shadow.sequence.id: length for shadow, length in ready}
        while drafting:
            items = [PlanItem(s, s.num_pending, num_draft=0, needs_logits=True) for s in drafting]
            result = self._run(items)
            num_passes += 1
            for sequence, token_id, q in zip(drafting, result.token_ids, result.probabilities, strict=True):
                if token_id is None:
                    lengths[sequence.id] = len(sequence.draft)
                    continue
                sequence.draft.append(token_id)
                if q is not None:
                    distributions.setdefault(sequence.id, []).append(q)
            drafting = [s for s in drafting if len(s.draft) < lengths[s.id]]
        self.probabilities.update({id: torch.stack(rows) for id, rows in distributions.items()})
        return num_passes

    def _run(self, items: list[PlanItem]) -> NextTokens:
        for item in items:
            self._forget(item.sequence, item.num_new)
        result = self._runner.next_tokens(StepPlan(items))
        for item in items:
            item.sequence.num_computed += item.num_new
        return result

    def _forget(self, sequence: Sequence, num_new: int) -> None:
        """Blocks that are being written to hold nothing that is known."""
        (blocks,) = sequence.tables
        first, last = sequence.num_computed, sequence.num_computed + num_new - 1
        for block in blocks[first // self._block_size : last // self._block_size + 1]:
            self._digests.pop(block, None)
