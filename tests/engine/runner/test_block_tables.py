"""BlockTables: rows that are kept between steps are what a rebuild would write, under random schedules."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.draft_model.model import DraftModel, NextTokens
from engine.protocol import EngineRequest
from engine.runner.batch_buffers import BatchBuffers
from engine.runner.batch_builder import build_batch
from engine.runner.block_tables import BlockTables
from engine.runner.device_buffers import DeviceBuffers, DeviceTables
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import Runner, StepPlan, StepResult
from engine.speculation.proposers import DraftSource
from models.batch import ForwardBatch, KVGroupBatch
from tests.engine.scheduling.test_schedules import blocks_of_pool, schedules, workloads
from tests.helpers.drafting import AlwaysFull, LedgerDraftRunner, Oracle
from tests.helpers.engines import expected_ids, make_engine
from tests.helpers.local_client import LocalClient

CPU = torch.device("cpu")
MAX_LEN, MAX_SEQUENCES = 50, 5


class KeptTables:
    """Buffers for small steps, whose tables are checked in every step."""

    def __init__(self, groups: tuple[KVGroup, ...]) -> None:
        self.groups = groups
        attended = [group for group in groups if not group.is_state]
        tables = BlockTables(attended, MAX_SEQUENCES, -(-MAX_LEN // min(group.block_size for group in groups)))
        on_device = DeviceTables(attended, tables.max_sequences, tables.max_blocks, CPU)
        self._buffers = BatchBuffers(8, tables), DeviceBuffers(8, on_device, CPU)

    def check(self, plan: StepPlan) -> None:
        for buffers in self._buffers:
            batch = build_batch(plan, self.groups, CPU, buffers)
            width = -(-max(batch.context_lens) // min(group.block_size for group in self.groups))
            is_device = isinstance(buffers, DeviceBuffers)
            self._check_tables(plan, batch, buffers.tables.max_blocks if is_device else width)

    def _check_tables(self, plan: StepPlan, batch: ForwardBatch, width: int) -> None:
        attended = iter([group for group in batch.groups if isinstance(group, KVGroupBatch)])
        for index, group in enumerate(self.groups):
            if not group.is_state:
                expected = [_rebuilt(item.sequence.tables[index], item.end, group, width) for item in plan.items]
                assert next(attended).block_tables.tolist() == expected


def _rebuilt(table: list[int], end: int, group: KVGroup, width: int) -> list[int]:
    blocks = [max(block, 0) for block in table[: -(-end // group.block_size)]]  # NO_BLOCK: out of the window
    return blocks + [0] * (width - len(blocks))


class CheckingRunner:
    """A Runner that builds the batch of each step, and then runs it on the runner that it wraps."""

    def __init__(self, runner: Runner[Any]) -> None:
        self.kv_groups = runner.kv_groups
        self.copies_blocks = runner.copies_blocks
        self.tables = KeptTables(runner.kv_groups)
        self._runner = runner
        self.release = runner.release

    def launch(self, plan: StepPlan) -> Any:
        self.tables.check(plan)
        return self._runner.launch(plan)

    def can_feed(self, pending: Any) -> bool:
        return self._runner.can_feed(pending)

    def collect(self, pending: Any) -> StepResult:
        return self._runner.collect(pending)


class CheckingDraftRunner(LedgerDraftRunner):
    def __init__(self, num_blocks: int, block_size: int) -> None:
        super().__init__(num_blocks, block_size, quality=0.6)
        self.tables = KeptTables((KVGroup(block_size),))

    def next_tokens(self, plan: StepPlan) -> NextTokens:
        self.tables.check(plan)
        return super().next_tokens(plan)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(requests=workloads(), schedule=schedules, drafts=st.booleans(), spare=st.integers(0, 12))
def test_kept_tables_are_those_of_a_rebuild(
    requests: list[EngineRequest], schedule: dict[str, Any], drafts: bool, spare: int
) -> None:
    """With preemptions, prefix hits, windows, several groups, rejected drafts, and sequences that change places."""
    speculator = AlwaysFull(6, lookups=[Oracle(0.6)] if drafts else ())
    engine, runner = make_engine(
        num_blocks=blocks_of_pool(schedule, spare), max_model_len=MAX_LEN, speculator=speculator, **schedule
    )
    engine._runner = CheckingRunner(runner)
    outputs = LocalClient(engine).generate(requests)
    assert {id: output.new_ids for id, output in outputs.items()} == {r.id: expected_ids(r) for r in requests}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(requests=workloads(), block_size=st.sampled_from([1, 3, 4]), spare=st.integers(0, 12))
def test_kept_tables_of_a_draft_model_are_those_of_a_rebuild(
    requests: list[EngineRequest], block_size: int, spare: int
) -> None:
    """Which drafts beyond what its target keeps, and finds what it computed for other sequences."""
    num_blocks = MAX_LEN // block_size + 1 + spare
    runner = CheckingDraftRunner(num_blocks, block_size)
    drafter = DraftModel(runner, block_size=block_size, max_len=MAX_LEN)
    speculator = AlwaysFull(6, drafter=drafter, sources=frozenset({DraftSource.DRAFT_MODEL}))
    engine, _ = make_engine(num_blocks=num_blocks, block_size=block_size, max_model_len=MAX_LEN, speculator=speculator)
    outputs = LocalClient(engine).generate(requests)
    assert {id: output.new_ids for id, output in outputs.items()} == {r.id: expected_ids(r) for r in requests}


class CountingTable(list[int]):
    """A block table that counts the entries that are copied from it."""

    num_copied = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.num_copied += len(found)
        return found


@pytest.mark.parametrize("window", [None, 40])
def test_a_step_writes_only_new_entries(window: int | None) -> None:
    tables = BlockTables([KVGroup(4, window)], max_sequences=2, max_blocks=1000)
    table = CountingTable(range(1, 1001))
    tables.write(0, 0, table, 2990, 3000)
    table.num_copied = 0
    for start in range(3000, 3100):
        tables.write(0, 0, table, start, start + 1)
    assert 25 <= table.num_copied <= 60  # each new entry at most twice
    first = 0 if window is None else (3099 - 39) // 4
    row = tables.tensor()[0, 0].tolist()
    assert row == [0] * first + list(range(first + 1, 776)) + [0] * 225
    tables.write(0, 1, table, 3099, 3100)  # at another place
    assert tables.tensor()[0, 1].tolist() == row


def test_rows_of_another_sequence_leave_nothing() -> None:
    tables = BlockTables([KVGroup(4)], max_sequences=1, max_blocks=8)
    tables.write(0, 0, list(range(1, 8)), 24, 28)
    tables.write(0, 0, [9, 8], 4, 5)
    assert tables.tensor().tolist() == [[[9, 8, 0, 0, 0, 0, 0, 0]]]


def test_entries_of_tokens_that_were_not_computed_are_written_again() -> None:
    """As after a rejected draft, whose blocks others may have."""
    tables = BlockTables([KVGroup(4)], max_sequences=1, max_blocks=4)
    table = [1, 2, 3]
    tables.write(0, 0, table, 3, 12)
    table[1:] = [7]
    tables.write(0, 0, table, 4, 8)
    assert tables.tensor().tolist() == [[[1, 7, 0, 0]]]
