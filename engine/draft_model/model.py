"""DraftModel: a small model that shares the target's block ids and drafts for many sequences at once.

For each of the target's sequences it keeps a shadow: another Sequence over the very same tokens and blocks, with a
num_computed of its own, and drafting is running plans of shadows. KV of drafted tokens that were not accepted is
overwritten, as in the target. What the draft has computed of a block that many may share is remembered under the
block's digest, so that prefix hits and preemption spare the draft what they spare the target.

The draft computes nothing for a sequence until it is to draft for it; then it has to catch up with the context first.
"""

import math
import time
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import Protocol

import torch

from engine.sampling.rejection import agreeing_prefix
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence, SequenceStatus

# Rows that are computed along with the first drafted token; who lags further has to catch up first.
_MAX_LAG = 16


@dataclass(frozen=True, slots=True)
class NextTokens:
    """For each item that needs logits a token, or None where the draft has nothing sound to say, and the distribution
    that it was drawn from ([V] fp32, V the target's), or None where it is the most likely one.

    confidences: how likely the token is to stand, by the distribution alone and not by what was drawn from it: then
    whether a draft goes on depends on nothing but the tokens before, and verification stays exact.
    """

    token_ids: list[int | None]
    probabilities: list[torch.Tensor | None]
    confidences: list[float]
    is_representative: bool = True  # see StepResult


class DraftRunner(Protocol):
    """Executes plans of shadows on the draft model."""

    num_tables: int  # that a shadow needs: of each group of the draft's layers, all the same

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
    is_readable: bool = True  # the draft knows all tokens, and had something sound to say of them


def widest_group(groups: SequenceOf[KVGroup]) -> int:
    """The group of the target whose blocks reach back the furthest, and so can be shared with a draft model."""
    return max(range(len(groups)), key=lambda i: -1 if groups[i].is_state else groups[i].window or math.inf)


class DraftModel:
    """Drafts for the speculator.

    probabilities: of the drafts since the last `begin_step`, by sequence: [k, V], where tokens were drawn at random.
    The same mapping for life: the sampler, which verifies against it, holds it too.
    """

    def __init__(
        self, runner: DraftRunner, *, block_size: int, max_len: int, kv_group: int = 0, relative_size: float = 0.0
    ) -> None:
        """max_len: most tokens of the draft model's context. kv_group: of the target's, whose blocks are shared: see
        `widest_group`. relative_size: bytes of the draft's weights over the target's."""
        self._runner = runner
        self._block_size = block_size
        self._max_len = max_len
        self._kv_group = kv_group
        self.relative_size = relative_size
        self._shadows: dict[str, _Shadow] = {}
        self._digests: dict[int, bytes] = {}  # of blocks that the draft has computed whole
        self.probabilities: dict[str, torch.Tensor] = {}

    def begin_step(self) -> None:
        """Forget the last step's drafts, which have been verified or dropped."""
        self.probabilities.clear()

    def room(self, target: Sequence) -> int:
        """The longest draft that its context leaves room for; 0 for a text with tokens that it does not know, and for
        one whose beginning has left the target's widest window."""
        if target.tables[self._kv_group][0] == NO_BLOCK or not self._synced(target).is_readable:
            return 0
        return max(0, self._max_len - len(target.tokens))

    def lag(self, target: Sequence) -> int:
        """Tokens to catch up with before it drafts for this sequence; 0 where the first pass can take them along."""
        num_missing = self._synced(target).sequence.num_pending - 1
        return num_missing if num_missing >= _MAX_LAG else 0

    def catch_up(self, chunks: list[tuple[Sequence, int]]) -> float | None:
        """Compute so many tokens of each sequence's context, in one pass; returns its seconds if they are typical."""
        start_s = time.perf_counter()
        items = [
            PlanItem(self._synced(target).sequence, num_new, num_draft=0, needs_logits=False)
            for target, num_new in chunks
        ]
        is_representative = self._run(items).is_representative
        return time.perf_counter() - start_s if is_representative else None

    def draft(self, lengths: list[tuple[Sequence, int]], *, least_reach: float) -> tuple[list[list[int]], float | None]:
        """The drafts of sequences that lag behind in nothing, at most as long as asked for, and the seconds of a pass,
        if they are typical. The blocks of each sequence cover its tokens and its draft.

        least_reach: a draft ends when the product of its tokens' confidences is less.
        """
        shadows = [(self._synced(target), length) for target, length in lengths]
        start_s = time.perf_counter()
        num_passes, is_representative = self._run_passes(shadows, least_reach)
        seconds = (time.perf_counter() - start_s) / max(1, num_passes)
        drafts = [shadow.sequence.draft for shadow, _ in shadows]
        for (shadow, _), draft in zip(shadows, drafts, strict=True):
            shadow.fed = draft[:-1]  # the last one has only been proposed
            shadow.sequence.draft = []
        return drafts, seconds if num_passes and is_representative else None

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
        sequence.tables = [target.tables[self._kv_group]] * self._runner.num_tables
        num_right = agreeing_prefix(shadow.fed, target.tokens[shadow.num_tokens :])
        sequence.num_computed = min(sequence.num_computed, shadow.num_tokens + num_right)
        shadow.fed = []
        sequence.draft = []  # of a pass that failed
        shadow.num_tokens = len(target.tokens)
        self._register(shadow, target)
        self._match(shadow, target)
        if shadow.is_readable and shadow.num_checked < len(target.tokens):
            shadow.is_readable = self._runner.can_read(target.tokens[shadow.num_checked :])
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
        blocks = sequence.tables[0]
        num_full = min((len(target.tokens) - 1) // size, len(target.block_hashes), len(blocks))
        index = sequence.num_computed // size
        while index < num_full and self._digests.get(blocks[index]) == target.block_hashes[index]:
            index += 1
        sequence.num_computed = max(sequence.num_computed, index * size)
        shadow.num_registered = max(shadow.num_registered, index)

    def _register(self, shadow: _Shadow, target: Sequence) -> None:
        """Remember blocks of accepted tokens that the draft has filled."""
        if not shadow.is_readable:
            return
        blocks = shadow.sequence.tables[0]
        num_full = min(shadow.sequence.num_computed // self._block_size, len(target.block_hashes))
        for index in range(shadow.num_registered, num_full):
            self._digests[blocks[index]] = target.block_hashes[index]
        shadow.num_registered = max(shadow.num_registered, num_full)

    # --- passes -------------------------------------------------------------------------------------------------------

    def _run_passes(self, ready: list[tuple[_Shadow, int]], least_reach: float) -> tuple[int, bool]:
        """One token a sequence and pass, until each has its length or is unsure; returns the number of passes, and
        whether all were typical."""
        num_passes, is_representative = 0, True
        reach = {shadow.sequence.id: 1.0 for shadow, _ in ready}
        distributions: dict[str, list[torch.Tensor]] = {}
        while ready:
            items = [
                PlanItem(shadow.sequence, shadow.sequence.num_pending, num_draft=0, needs_logits=True)
                for shadow, _ in ready
            ]
            result = self._run(items)
            num_passes += 1
            is_representative &= result.is_representative
            for (shadow, _), token_id, q, confidence in zip(
                ready, result.token_ids, result.probabilities, result.confidences, strict=True
            ):
                if token_id is None:
                    shadow.is_readable = False
                    continue
                shadow.sequence.draft.append(token_id)
                reach[shadow.sequence.id] *= confidence
                if q is not None:
                    distributions.setdefault(shadow.sequence.id, []).append(q)
            ready = [
                (s, length)
                for s, length in ready
                if s.is_readable and len(s.sequence.draft) < length and reach[s.sequence.id] >= least_reach
            ]
        self.probabilities.update({id: torch.stack(rows) for id, rows in distributions.items()})
        return num_passes, is_representative

    def _run(self, items: list[PlanItem]) -> NextTokens:
        for item in items:
            self._forget(item.sequence, item.num_new)
        result = self._runner.next_tokens(StepPlan(items))
        for item in items:
            item.sequence.num_computed += item.num_new
        return result

    def _forget(self, sequence: Sequence, num_new: int) -> None:
        """Blocks that are being written to hold nothing that is known."""
        blocks = sequence.tables[0]
        first, last = sequence.num_computed, sequence.num_computed + num_new - 1
        for block in blocks[first // self._block_size : last // self._block_size + 1]:
            self._digests.pop(block, None)
