"""HidingRunner: shows that a step's result depends on nothing that happens to its sequences after its launch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import Runner, StepPlan, StepResult
from engine.scheduling.sequence import Sequence

_NO_TOKEN = -1


class HidingRunner:
    """A Runner that spoils the sequences of a step while the runner that it wraps collects it."""

    def __init__(self, runner: Runner[Any]) -> None:
        self.kv_groups: tuple[KVGroup, ...] = runner.kv_groups
        self.copies_blocks: bool = runner.copies_blocks
        self._runner = runner
        self.release = runner.release

    def launch(self, plan: StepPlan) -> tuple[StepPlan, Any]:
        return plan, self._runner.launch(plan)

    def can_feed(self, pending: tuple[StepPlan, Any]) -> bool:
        return self._runner.can_feed(pending[1])

    def collect(self, pending: tuple[StepPlan, Any]) -> StepResult:
        plan, of_runner = pending
        with _spoiled([item.sequence for item in plan.items]):
            return self._runner.collect(of_runner)


@contextmanager
def _spoiled(sequences: list[Sequence]) -> Iterator[None]:
    """Inside the block, the sequences have advanced by a few tokens, and their blocks and adapters are others'."""
    saved = [(each.num_computed, each.draft, each.tables, each.adapter_slot) for each in sequences]
    for sequence in sequences:
        sequence.num_computed += 3
        sequence.tokens += [_NO_TOKEN] * 3
        sequence.draft, sequence.tables, sequence.adapter_slot = [], [], -1
    try:
        yield
    finally:
        for sequence, fields in zip(sequences, saved, strict=True):
            del sequence.tokens[-3:]
            sequence.num_computed, sequence.draft, sequence.tables, sequence.adapter_slot = fields
