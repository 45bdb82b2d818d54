"""DraftModel: a small model that shares the target's block ids and drafts for many sequences in one batch.

Each target sequence gets a draft sequence: another Sequence over the same tokens and blocks, with a num_computed of its
own. A drafting pass runs a StepPlan of draft sequences. KV of rejected tokens is overwritten, as in the target. Blocks
that the draft model has computed are registered under their digest, so that prefix cache hits and resumed sequences
skip the same work as in the target.

The draft model computes nothing for a sequence until its first draft, and then has to catch up with the context.
"""

import math
import time
from collections import abc
from dataclasses import dataclass, field
from typing import Protocol

import torch

from engine.sampling.rejection import agreeing_prefix
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence, SequenceStatus

# Rows that the pass of the first drafted token can include; a sequence that is further behind has to catch up first.
_MAX_BEHIND = 16


@dataclass(frozen=True, slots=True)
class NextTokens:
    """Results of a drafting pass, one entry for each item that needs logits.

    token_ids: None where logits are not finite. probabilities: the distribution that the token was drawn from, [V] fp32
    over the target's vocabulary; None where the most likely token was taken. confidences: the estimated probability
    that the token is accepted. It depends on the distribution, not on the drawn token, so that verification stays exact
    when a draft stops at a low confidence.
    """

    token_ids: list[int | None]
    probabilities: list[torch.Tensor | None]
    confidences: list[float]
    is_representative: bool = True  # see StepResult


class DraftRunner(Protocol):
    """Runs plans of draft sequences on the draft model."""

    num_tables: int  # block tables of a draft sequence, all alike: one for each group of the draft model's layers

    def next_tokens(self, plan: StepPlan) -> NextTokens: ...

    def has_embeddings(self, token_ids: list[int]) -> bool: ...
    def release(self, sequence: Sequence) -> None: ...


@dataclass(slots=True)
class DraftSequence:
    """Progress of the draft model with one target sequence.

    Invariant: the blocks hold the draft model's KV of the first `sequence.num_computed` tokens. The last of them may be
    drafted tokens (`computed_draft`), unverified until `_synced` compares them with the accepted tokens.
    """

    sequence: Sequence
    num_admitted: int  # admissions of the target's sequence when its blocks were shared
    num_tokens: int = 0  # accepted tokens when the sequence drafted last
    computed_draft: list[int] = field(default_factory=list)  # drafted tokens computed after the accepted ones
    num_registered: int = 0  # blocks registered under their digest
    num_checked: int = 0  # tokens that the draft model is known to have embeddings for
    can_draft: bool = True  # the draft model has embeddings for all tokens, and its logits were finite


def widest_group(groups: abc.Sequence[KVGroup]) -> int:
    """Return the index of the target's KV group with the longest window, whose blocks the draft model shares."""
    return max(range(len(groups)), key=lambda i: -1 if groups[i].is_state else groups[i].window or math.inf)


class DraftModel:
    """The draft model's side of speculative decoding: decides how far it can draft, catches up, and drafts.

    probabilities: the distributions of randomly drawn drafts since the last `begin_step`, by sequence id, [k, V]. The
    mapping object never changes: the sampler holds a reference to it for verification.
    """

    def __init__(
        self,
        runner: DraftRunner,
        *,
        block_size: int,
        max_len: int,
        kv_group: int = 0,
        blocks_per_unit: int = 1,
        relative_size: float = 0.0,
    ) -> None:
        """max_len: the draft model's context length. kv_group: index of the target's KV group whose block ids are
        shared: the one with the longest window. block_size, blocks_per_unit: that group's tokens in a block and blocks
        in a prefix unit. relative_size: the draft model's weight bytes over the target's."""
        self._runner = runner
        self._block_size = block_size
        self._blocks_per_unit = blocks_per_unit
        self._max_len = max_len
        self._kv_group = kv_group
        self.relative_size = relative_size
        self._draft_sequences: dict[str, DraftSequence] = {}
        # Of blocks that the draft model has computed completely: the digest of the block's unit, and its number there.
        self._digests: dict[int, tuple[bytes, int]] = {}
        self.probabilities: dict[str, torch.Tensor] = {}

    def begin_step(self) -> None:
        self.probabilities.clear()

    def max_draft_len(self, target: Sequence) -> int:
        """Return the most tokens that can be drafted within the draft model's context; 0 if it cannot draft for this
        sequence, such as when it has no embeddings for some tokens, or the target has freed the first block."""
        if target.tables[self._kv_group][0] == NO_BLOCK or not self._synced(target).can_draft:
            return 0
        return max(0, self._max_len - len(target.tokens))

    def num_behind(self, target: Sequence) -> int:
        """Return how many tokens `catch_up` must compute before a draft; 0 if there are so few that the first
        drafting pass can compute them."""
        num_behind = self._synced(target).sequence.num_pending - 1
        return num_behind if num_behind >= _MAX_BEHIND else 0

    def catch_up(self, chunks: list[tuple[Sequence, int]]) -> float | None:
        start_s = time.perf_counter()
        items = []
        for target, num_planned in chunks:
            sequence = self._synced(target).sequence
            # Fewer than planned if another sequence has computed shared blocks since.
            num_new = min(num_planned, sequence.num_pending - 1)
            items.append(PlanItem(sequence, sequence.num_computed, num_new, num_draft=0, needs_logits=False))
        is_as_planned = [item.num_new for item in items] == [num_planned for _, num_planned in chunks]
        items = [item for item in items if item.num_new > 0]
        if not items:
            return None
        is_representative = self._run(items).is_representative
        return time.perf_counter() - start_s if is_representative and is_as_planned else None

    def draft(
        self, lengths: list[tuple[Sequence, int]], *, min_path_prob: float
    ) -> tuple[list[list[int]], float | None]:
        drafting = [(self._synced(target), length) for target, length in lengths]
        start_s = time.perf_counter()
        num_passes, is_representative = self._run_passes(drafting, min_path_prob)
        seconds = (time.perf_counter() - start_s) / max(1, num_passes)
        drafts = [each.sequence.draft for each, _ in drafting]
        for (each, _), draft in zip(drafting, drafts, strict=True):
            each.computed_draft = draft[:-1]  # the last token was only proposed
            each.sequence.draft = []
        return drafts, seconds if num_passes and is_representative else None

    def release(self, sequence: Sequence) -> None:
        self._draft_sequences.pop(sequence.id, None)
        self._runner.release(sequence)

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def _synced(self, target: Sequence) -> DraftSequence:
        """Return the target's draft sequence, brought up to date with the target's accepted tokens and block tables."""
        draft_sequence = self._draft_sequences.get(target.id)
        if draft_sequence is None or draft_sequence.num_admitted != target.num_admitted:
            draft_sequence = self._new_draft_sequence(target)
        sequence = draft_sequence.sequence
        sequence.tables = [target.tables[self._kv_group]] * self._runner.num_tables
        num_accepted = agreeing_prefix(draft_sequence.computed_draft, target.tokens[draft_sequence.num_tokens :])
        # Without the last token, whose logits the next draft needs: the target may have dropped a draft and then found
        # its first token itself.
        most = min(draft_sequence.num_tokens + num_accepted, len(target.tokens) - 1)
        sequence.num_computed = min(sequence.num_computed, most)
        draft_sequence.computed_draft = []
        sequence.draft = []  # left by a pass that failed
        draft_sequence.num_tokens = len(target.tokens)
        self._register(draft_sequence, target)
        self._match(draft_sequence, target)
        if draft_sequence.can_draft and draft_sequence.num_checked < len(target.tokens):
            draft_sequence.can_draft = self._runner.has_embeddings(target.tokens[draft_sequence.num_checked :])
            draft_sequence.num_checked = len(target.tokens)
        return draft_sequence

    def _new_draft_sequence(self, target: Sequence) -> DraftSequence:
        sequence = Sequence(
            request=target.request,
            seed=target.seed,
            tokens=target.tokens,  # the same list, which grows with the target's
            num_prompt=target.num_prompt,
            grammar=target.grammar,
            status=SequenceStatus.RUNNING,
        )
        draft_sequence = DraftSequence(sequence, target.num_admitted)
        self._draft_sequences[target.id] = draft_sequence
        return draft_sequence

    def _match(self, draft_sequence: DraftSequence, target: Sequence) -> None:
        """Reuse blocks whose KV the draft model has computed already, for another sequence or before a preemption."""
        sequence, size = draft_sequence.sequence, self._block_size
        blocks = sequence.tables[0]
        num_full = min((len(target.tokens) - 1) // size, self._num_hashed(target), len(blocks))
        index = sequence.num_computed // size
        while index < num_full and self._digests.get(blocks[index]) == self._digest(target, index):
            index += 1
        sequence.num_computed = max(sequence.num_computed, index * size)
        draft_sequence.num_registered = max(draft_sequence.num_registered, index)

    def _register(self, draft_sequence: DraftSequence, target: Sequence) -> None:
        """Register the full blocks of accepted tokens that the draft model has computed, by digest."""
        if not draft_sequence.can_draft:
            return
        blocks = draft_sequence.sequence.tables[0]
        num_full = min(draft_sequence.sequence.num_computed // self._block_size, self._num_hashed(target))
        for index in range(draft_sequence.num_registered, num_full):
            self._digests[blocks[index]] = self._digest(target, index)
        draft_sequence.num_registered = max(draft_sequence.num_registered, num_full)

    def _num_hashed(self, target: Sequence) -> int:
        """Return the number of the target's first blocks that have a digest."""
        return len(target.unit_hashes) * self._blocks_per_unit

    def _digest(self, target: Sequence, index: int) -> tuple[bytes, int]:
        return target.unit_hashes[index // self._blocks_per_unit], index % self._blocks_per_unit

    # --- passes -------------------------------------------------------------------------------------------------------

    def _run_passes(self, active: list[tuple[DraftSequence, int]], min_path_prob: float) -> tuple[int, bool]:
        """Draft one token per sequence in each pass; return the number of passes, and whether their durations predict
        those of later passes."""
        num_passes, is_representative = 0, True
        path_probs = {each.sequence.id: 1.0 for each, _ in active}
        distributions: dict[str, list[torch.Tensor]] = {}
        while active:
            sequences = [each.sequence for each, _ in active]
            items = [PlanItem(s, s.num_computed, s.num_pending, num_draft=0, needs_logits=True) for s in sequences]
            result = self._run(items)
            num_passes += 1
            is_representative &= result.is_representative
            for (each, _), token_id, q, confidence in zip(
                active, result.token_ids, result.probabilities, result.confidences, strict=True
            ):
                if token_id is None:
                    each.can_draft = False
                    continue
                each.sequence.draft.append(token_id)
                path_probs[each.sequence.id] *= confidence
                if q is not None:
                    distributions.setdefault(each.sequence.id, []).append(q)
            active = [
                (each, length)
                for each, length in active
                if each.can_draft
                and len(each.sequence.draft) < length
                and path_probs[each.sequence.id] >= min_path_prob
            ]
        self.probabilities.update({id: torch.stack(rows) for id, rows in distributions.items()})
        return num_passes, is_representative

    def _run(self, items: list[PlanItem]) -> NextTokens:
        for item in items:
            self._forget_written(item)
        result = self._runner.next_tokens(StepPlan(items))
        for item in items:
            item.sequence.num_computed = item.end
        return result

    def _forget_written(self, item: PlanItem) -> None:
        """Unregister the blocks that a pass will overwrite."""
        blocks = item.sequence.tables[0]
        for block in blocks[item.start // self._block_size : (item.end - 1) // self._block_size + 1]:
            self._digests.pop(block, None)
