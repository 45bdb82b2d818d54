"""LedgerRunner: a Runner without a model, whose "KV cache" records what was written to each slot.

In every step it reads back, through each sequence's block tables, all that its tokens see, and checks it entry by
entry. The next token is a hash of that history. Wrong tables, writes to shared blocks, stale prefix hits, lost
preemptions and off-by-one speculation fail at once, or change an output.
"""

import itertools
import json
from array import array
from collections import abc
from hashlib import blake2b
from typing import NamedTuple

from engine.protocol import EngineRequest, TokenLogprobs
from engine.scheduling.grammar import OutputGrammar
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup
from engine.scheduling.kv.moves import BlockLoad, BlockSave
from engine.scheduling.kv.states import source_state
from engine.scheduling.plan import PlanItem, RowResult, StepPlan, StepResult
from engine.scheduling.sequence import Sequence

VOCAB_SIZE = 40
EOS_ID = 0
BLOCK_BYTES = 4096  # of a block that was saved

# With what a token was computed: the salt under which it may be shared, and the digest of the adapter.
Origin = tuple[str, bytes | None]
# The content of a slot: KV group, token, position and origin.
Entry = tuple[int, int, int, Origin]
# The content of a recurrent state: the tokens that led to it, and their origin.
State = tuple[bytes, Origin]


def origin_of(request: EngineRequest) -> Origin:
    return request.cache_salt, None if request.adapter is None else request.adapter.digest


def adapted_seed(request: EngineRequest, seed: int) -> int:
    """The seed of a request's tokens: each version of an adapter gives other tokens."""
    if request.adapter is None:
        return seed
    return (seed ^ int.from_bytes(blake2b(request.adapter.digest, digest_size=7).digest())) % 2**62


def next_token(history: list[int], seed: int = 0, allowed: abc.Sequence[int] = range(VOCAB_SIZE)) -> int:
    """The token that follows `history`; EOS_ID about once in VOCAB_SIZE tokens, if all are allowed."""
    digest = blake2b(array("q", [seed, *history]).tobytes(), digest_size=8).digest()
    return allowed[int.from_bytes(digest) % len(allowed)]


def label_logprob(history: list[int], token_id: int) -> float:
    """The log probability of a token behind `history`, where a request wants to know it."""
    return -0.05 * (1 + next_token([*history, token_id]))


def allowed_ids(grammar: OutputGrammar) -> abc.Sequence[int]:
    """The ids that a mask would allow next."""
    if grammar.forced_next is not None:
        return [grammar.forced_next]
    mask = grammar.matcher.compute_bitmask()
    return [index for index in range(VOCAB_SIZE) if mask[index // 8] >> index % 8 & 1]


class LedgerRow(NamedTuple):
    """One item of a launched step, as `collect` may know it. history: the tokens up to the end of the item, its draft
    among them. tables: copies, since the sequence's own may change."""

    sequence_id: str
    request: EngineRequest
    seed: int
    num_prompt: int
    grammar: OutputGrammar | None
    item: PlanItem
    history: list[int]
    tables: list[list[int]]


class LedgerStep(NamedTuple):
    """A step that was launched. Its results are not known yet: `collect` works them out. written: the blocks to which
    it writes, by group, with the sequences."""

    plan: StepPlan
    rows: list[LedgerRow]
    written: dict[int, Sequence]


class LedgerRunner:
    """Checks every plan against what earlier plans wrote. `fail_ids` names sequences whose rows end with an error.

    What a step needs of the sequences is read when it is launched, and its results exist when it is collected. With
    `feeds` it can launch a step before it collects the one before, like a GPU: it knows the tokens between them, and
    checks that no step uses blocks of another sequence to which a launched step writes.

    adapters: the digests of those in slots, which `fill` puts there and `empty` removes.
    """

    def __init__(
        self, num_blocks: int, groups: tuple[KVGroup, ...], num_states: int = 0, *, feeds: bool = False
    ) -> None:
        self._feeds = feeds
        self.num_fed = 0  # steps launched before the one before them was collected
        self.adapters: dict[int, bytes] = {}
        self.kv_groups = groups
        self.copies_blocks = True
        self.block_bytes = (BLOCK_BYTES,) * len(groups)
        self._num_blocks = num_blocks
        self._slots: dict[tuple[int, int], Entry] = {}  # by block and offset
        self._states: list[State | None] = [None] * num_states
        self.fail_ids: set[str] = set()
        self.released: list[str] = []
        self.num_tokens = 0  # rows computed so far
        self.num_copies = 0
        self._pending: list[LedgerStep] = []  # launched and not collected

    def launch(self, plan: StepPlan) -> LedgerStep:
        assert plan.items, "an empty plan is not for the runner"
        assert len(self._pending) == (plan.token_rows is not None), (
            "only a step with tokens of another is launched early"
        )
        histories = [self._history(plan, index) for index in range(len(plan.items))]
        written = self._check_pending(plan)
        ids = [item.sequence.id for item in plan.items]
        assert len(set(ids)) == len(ids), f"a sequence is in the plan twice: {ids}"
        self._check_adapters(plan)
        self._copy(plan)
        self._check_writes(plan)
        for item, known in zip(plan.items, histories, strict=True):
            self._write(item, known)
        self.num_tokens += plan.num_tokens
        self.num_fed += len(self._pending)
        rows = [self._launched(item, known) for item, known in zip(plan.items, histories, strict=True)]
        self._pending.append(LedgerStep(plan, rows, written))
        return self._pending[-1]

    def _history(self, plan: StepPlan, index: int) -> list[int]:
        """The sequence's tokens, with its draft, or with the token that the step before samples."""
        sequence = plan.items[index].sequence
        if plan.token_rows is None:
            return sequence.tokens + sequence.draft
        row = [row for row in self._pending[0].rows if row.item.needs_logits][plan.token_rows[index]]
        assert row.item.sequence is sequence
        assert sequence.tokens == row.history, "the host knows what it should not"
        return [*row.history, self._verify(row)[0]]

    def _check_pending(self, plan: StepPlan) -> dict[int, Sequence]:
        """Return the blocks that the plan writes. None that a pending step writes is in another sequence's table."""
        for pending in self._pending:
            for item in plan.items:
                for block in itertools.chain(*item.sequence.tables):
                    owner = pending.written.get(block, item.sequence)
                    assert owner is item.sequence, f"{item.sequence.id} has a block to which {owner.id} still writes"
        return {
            item.sequence.tables[index][position // group.block_size]: item.sequence
            for item in plan.items
            for index, group in enumerate(self.kv_groups)
            for position in range(item.start, item.end)
            if not group.is_state
        }

    def can_feed(self, pending: LedgerStep) -> bool:
        return self._feeds and all(row.request.sampling.prompt_logprobs is None for row in pending.rows)

    def _copy(self, plan: StepPlan) -> None:
        """Copy blocks, each to one that a sequence of the plan has in its table; no two to the same."""
        targets = [target for _, _, target in plan.copies]
        assert len(set(targets)) == len(targets)
        contents = [
            [self._slots.get((source, offset)) for offset in range(self.kv_groups[group].block_size)]
            for group, source, _ in plan.copies
        ]
        for (group, _, target), entries in zip(plan.copies, contents, strict=True):
            assert any(target in item.sequence.tables[group] for item in plan.items)
            for offset, entry in enumerate(entries):
                self._slots.pop((target, offset), None)
                if entry is not None:
                    self._slots[target, offset] = entry
        self.num_copies += len(targets)

    def collect(self, pending: LedgerStep) -> StepResult:
        assert pending is self._pending.pop(0), "a step is collected twice, or before the one before it"
        return StepResult([self._result(row) for row in pending.rows])

    def write_unshared(self, plan: StepPlan) -> None:
        """Write and read a draft model's plan, whose sequences may write the same context to a shared block."""
        for item in plan.items:
            self._write(item, item.sequence.tokens + item.sequence.draft)
        for item in plan.items:
            self._read(item, item.sequence.tokens + item.sequence.draft)

    def release(self, sequence: Sequence) -> None:
        self.released.append(sequence.id)

    def save(self, saves: list[BlockSave]) -> list[bytes]:
        """The entries of blocks, as text. A block that is saved is full, and all of it is of one group."""
        contents = []
        for group, block, _ in saves:
            entries = [self._slots[block, offset] for offset in range(self.kv_groups[group].block_size)]
            assert {entry[0] for entry in entries} == {group}, f"block {block} is not one of group {group}"
            rows = [(token, position, salt, (adapter or b"").hex()) for _, token, position, (salt, adapter) in entries]
            contents.append(json.dumps(rows).encode().ljust(BLOCK_BYTES))
            assert len(contents[-1]) == BLOCK_BYTES
        return contents

    def load(self, loads: list[BlockLoad]) -> None:
        for group, block, content in loads:
            for offset, (token, position, salt, adapter) in enumerate(json.loads(content)):
                origin = (salt, bytes.fromhex(adapter) or None)
                self._slots[block, offset] = (group, token, position, origin)

    def fill(self, slot: int, digest: bytes) -> None:
        self.adapters[slot] = digest

    def empty(self, slot: int) -> None:
        self.adapters.pop(slot, None)

    def _check_adapters(self, plan: StepPlan) -> None:
        """Each slot has the adapter that its sequences ask for, and rows of one slot are neighbors."""
        for item in plan.items:
            adapter, slot = item.sequence.request.adapter, item.sequence.adapter_slot
            if adapter is None:
                assert slot < 0, item.sequence.id
            else:
                assert self.adapters.get(slot) == adapter.digest, f"{item.sequence.id}: slot {slot} has another adapter"
        slots = [item.sequence.adapter_slot for item in plan.items]
        starts = [slot for index, slot in enumerate(slots) if index == 0 or slots[index - 1] != slot]
        assert len(set(starts)) == len(starts), f"rows of one adapter are apart: {slots}"

    def _check_writes(self, plan: StepPlan) -> None:
        """A block that one sequence writes to is in no other sequence's table."""
        tables = [
            (item.sequence.id, index, table) for item in plan.items for index, table in enumerate(item.sequence.tables)
        ]
        for item in plan.items:
            sequence = item.sequence
            for index, (group, table) in enumerate(zip(self.kv_groups, sequence.tables, strict=True)):
                first, last = item.start // group.block_size, (item.end - 1) // group.block_size
                for block in table[first : last + 1]:
                    if block == NO_BLOCK and group.is_state:
                        continue
                    owners = [
                        (id, number)
                        for id, number, blocks in tables
                        if block in blocks and self.kv_groups[number].is_state == group.is_state
                    ]
                    assert owners == [(sequence.id, index)], f"{sequence.id} writes to block {block} of {owners}"

    def _write(self, item: PlanItem, known: list[int]) -> None:
        sequence = item.sequence
        assert item.num_new > 0
        assert item.end <= len(known)
        for position in range(item.start, item.end):
            for index, group in enumerate(self.kv_groups):
                if not group.is_state:
                    entry = (index, known[position], position, origin_of(sequence.request))
                    self._slots[self._slot(sequence, index, position)] = entry

    def _launched(self, item: PlanItem, known: list[int]) -> LedgerRow:
        sequence = item.sequence
        tables = [list(table) for table in sequence.tables]
        history = self._read(item, known)
        assert not item.needs_logits or len(history) == len(known)
        return LedgerRow(
            sequence.id, sequence.request, sequence.seed, sequence.num_prompt, sequence.grammar, item, history, tables
        )

    def _result(self, row: LedgerRow) -> RowResult:
        if row.sequence_id in self.fail_ids:
            return RowResult([], error="made to fail")
        item = row.item
        prompt_logprobs = self._prompt_logprobs(row)
        if not item.needs_logits:
            assert item.num_draft == 0
            self._write_states(row, item.num_new)
            return RowResult([], prompt_logprobs=prompt_logprobs)
        token_ids = self._verify(row)
        self._write_states(row, item.num_new - item.num_draft + len(token_ids) - 1)
        logprobs = None
        if row.request.sampling.logprobs is not None:
            wanted = row.request.sampling.logprob_token_ids
            top = [(each, label_logprob(row.history, each)) for each in wanted]
            logprobs = [TokenLogprobs(token_id, -1.0, top) for token_id in token_ids]
        return RowResult(token_ids, logprobs, prompt_logprobs)

    def _read(self, item: PlanItem, known: list[int]) -> list[int]:
        """The history, after looking up in each group's table all that this step's tokens see there."""
        sequence = item.sequence
        for index, group in enumerate(self.kv_groups):
            if group.is_state:
                self._read_state(item, index)
                continue
            first = _first_seen(group, item.start)
            for position in range(first, item.end):
                entry = self._slots.get(self._slot(sequence, index, position))
                expected = (index, known[position], position, origin_of(sequence.request))
                assert entry == expected, f"{sequence.id}: position {position} holds {entry}, not {expected}"
        return known[: item.end]

    def _read_state(self, item: PlanItem, index: int) -> None:
        sequence, start = item.sequence, item.start
        block = source_state(sequence.tables[index], start, item.num_certain, self.kv_groups[index].block_size)
        if start == 0:
            assert block == NO_BLOCK
            return
        expected = _state((sequence.tokens + sequence.draft)[:start], sequence.request)
        assert self._states[block] == expected, f"{sequence.id}: no state of {start} tokens"

    def _write_states(self, row: LedgerRow, num_accepted: int) -> None:
        """Write the states after the first `num_accepted` rows: at their end, and at full blocks with an entry.

        The states after rejected tokens are written nowhere.
        """
        start, end = row.item.start, row.item.start + num_accepted
        for group, table in zip(self.kv_groups, row.tables, strict=True):
            if not group.is_state:
                continue
            size = group.block_size
            assert table[(end - 1) // size] != NO_BLOCK, f"{row.sequence_id}: no block for the state"
            for num_tokens in range(start + 1, end + 1):
                block = table[(num_tokens - 1) // size]
                if block != NO_BLOCK and (num_tokens == end or num_tokens % size == 0):
                    self._states[block] = _state(row.history[:num_tokens], row.request)

    def _verify(self, row: LedgerRow) -> list[int]:
        """The draft's tokens up to the first wrong one, and the right one after them."""
        num_known = row.item.num_certain
        known, draft = row.history[:num_known], row.history[num_known:]
        token_ids = [self._next(row, known, [])]
        for drafted in draft:
            if drafted != token_ids[-1]:
                break
            token_ids.append(self._next(row, known, token_ids))
        return token_ids

    def _next(self, row: LedgerRow, known: list[int], draft: list[int]) -> int:
        """The token after `known` and `draft`, under the mask that the grammar makes there."""
        seed = adapted_seed(row.request, row.seed)
        if row.grammar is None:
            return next_token(known + draft, seed)
        with row.grammar.following(draft) as matches:
            if not matches:
                assert draft[-1] == EOS_ID, f"{row.sequence_id}: the draft {draft} does not match its grammar"
                return EOS_ID  # which no sequence gets: the text has ended
            return next_token(known + draft, seed, allowed_ids(row.grammar))

    def _prompt_logprobs(self, row: LedgerRow) -> list[TokenLogprobs] | None:
        """One entry for each prompt token after a row; its "log probability" names the history that it follows."""
        if row.request.sampling.prompt_logprobs is None:
            return None
        start = row.item.start + 1
        end = min(start + row.item.num_new, row.num_prompt)
        return [
            TokenLogprobs(row.request.prompt_ids[position], -float(next_token(row.request.prompt_ids[:position])), [])
            for position in range(start, end)
        ]

    def _slot(self, sequence: Sequence, group: int, position: int) -> tuple[int, int]:
        size = self.kv_groups[group].block_size
        block = sequence.tables[group][position // size]
        assert block in range(self._num_blocks), f"{sequence.id}: position {position} was freed, or is in no block"
        return block, position % size


def _state(tokens: list[int], request: EngineRequest) -> State:
    """The state that these tokens lead to."""
    return blake2b(array("q", tokens).tobytes(), digest_size=8).digest(), origin_of(request)


def _first_seen(group: KVGroup, position: int) -> int:
    """The first position that a token at `position` sees."""
    if group.window is None:
        return 0
    return position - position % group.window if group.is_chunked else max(0, position - group.window + 1)
