"""ModelWork: estimates the FLOPs and memory traffic of a step's forward pass, from the plan and the model's sizes.

The estimate is a lower bound for any implementation. Each stored weight is read once per step, and as many experts as
even routing would select. Keys and values are read once per sequence by each layer that attends to them. The last
layer's feed-forward, and layers that only read what earlier ones have cached, count for rows with logits alone. Where
an indexer chooses positions, its keys are read, and of keys and values as many positions as are chosen. Each weight and
row, and each key or value element that a row attends to, takes a multiply and an add. Activations and embeddings count
nothing, since they stay in caches or are small; nor does the arithmetic of recurrences, which is small next to their
projections. Time over work shows how well the hardware is used (roofline model: S. Williams, A. Waterman, D. Patterson,
2009).
"""

from collections import abc
from dataclasses import dataclass
from typing import NamedTuple

from engine.scheduling.plan import StepPlan, StepWork


class StepDemand(NamedTuple):
    """The sizes of a step on which its time depends."""

    num_rows: int
    num_logits: int
    num_sequences: int
    kv_bytes: int  # keys and values that are read
    attention_flops: int


@dataclass(frozen=True, slots=True)
class ExpertSizes:
    """Sizes of the experts of one layer."""

    num_experts: int
    num_chosen: int  # experts that each row is routed to
    num_bytes: int  # bytes of one expert

    def read_bytes(self, num_rows: int) -> float:
        """Return the expected bytes of expert weights that `num_rows` rows read under even routing."""
        is_idle = (1 - self.num_chosen / self.num_experts) ** num_rows
        return self.num_experts * (1 - is_idle) * self.num_bytes


@dataclass(frozen=True, slots=True)
class AttentionSizes:
    """Cost of the attention layers that share a window."""

    window: int  # 0: all positions
    is_chunked: bool
    bytes_per_position: int  # bytes of keys and values
    flops_per_position: int  # for each position that a row sees

    def first_seen(self, position: int) -> int:
        """Return the first position that the row at `position` attends to."""
        if not self.window:
            return 0
        return position // self.window * self.window if self.is_chunked else max(0, position - self.window + 1)

    def num_seen(self, start: int, end: int) -> int:
        """Return how many positions rows start..end - 1 attend to, including themselves."""
        return self._num_seen_before(end) - self._num_seen_before(start)

    def of_rows(self, start: int, end: int) -> tuple[int, int]:
        """Return the bytes and FLOPs of the rows start..end - 1 of a sequence."""
        num_read = end - self.first_seen(start)
        return num_read * self.bytes_per_position, self.num_seen(start, end) * self.flops_per_position

    def _num_seen_before(self, end: int) -> int:
        if not self.window:
            return _triangle(end)
        if self.is_chunked:
            return end // self.window * _triangle(self.window) + _triangle(end % self.window)
        return _triangle(end) - _triangle(max(0, end - self.window))


def _triangle(number: int) -> int:
    """Return 1 + 2 + ... + number."""
    return number * (number + 1) // 2


@dataclass(frozen=True, slots=True)
class ModuleSizes:
    """Cost of modules that compute the same rows, without attention."""

    num_bytes: int  # bytes of all weights but the experts'
    flops_per_row: int
    experts: tuple[ExpertSizes, ...] = ()

    def read_bytes(self, num_rows: int) -> float:
        """Return the expected bytes of weights that `num_rows` rows read."""
        return self.num_bytes + sum(each.read_bytes(num_rows) for each in self.experts)


@dataclass(frozen=True, slots=True)
class ModelWork:
    """Estimates the work of step plans on one model, from its sizes."""

    every: ModuleSizes  # modules that compute every row
    late: ModuleSizes  # modules before the head that compute rows with logits alone
    head: ModuleSizes
    full: tuple[AttentionSizes, ...]
    windows: tuple[AttentionSizes, ...]
    late_attention: tuple[AttentionSizes, ...]  # of layers that compute rows with logits alone
    written_per_row: int  # bytes of keys and values
    state_bytes: int  # recurrent state of a sequence

    @property
    def position_cost(self) -> float:
        """FLOPs that each context position adds to a row, relative to the row's other FLOPs."""
        return sum(attention.flops_per_position for attention in self.full) / max(1, self.every.flops_per_row)

    @property
    def row_cost(self) -> float:
        """FLOPs of a row of logits, with what is computed for such rows alone, relative to a row's FLOPs in general."""
        return (self.late.flops_per_row + self.head.flops_per_row) / max(1, self.every.flops_per_row)

    def demand(self, plan: StepPlan) -> StepDemand:
        """Return the sizes of a plan's forward pass."""
        num_rows = num_logits = num_read = num_seen = 0
        kv_bytes = flops = 0
        for _, start, num_new, num_draft, needs_logits in plan.items:  # each step, for each sequence: few calls
            end = start + num_new
            num_rows += num_new
            num_read += end
            num_seen += num_new * start + num_new * (num_new + 1) // 2
            for attention in self.windows:
                of_rows = attention.of_rows(start, end)
                kv_bytes, flops = kv_bytes + of_rows[0], flops + of_rows[1]
            if needs_logits:  # logits of prompts, where requested, are computed after the pass
                num_logits += num_draft + 1
                for attention in self.late_attention:
                    of_rows = attention.of_rows(end - num_draft - 1, end)
                    kv_bytes, flops = kv_bytes + of_rows[0], flops + of_rows[1]
        for attention in self.full:
            kv_bytes += num_read * attention.bytes_per_position
            flops += num_seen * attention.flops_per_position
        return StepDemand(num_rows, num_logits, len(plan.items), kv_bytes, flops)

    def decode_demands(self, ends: abc.Iterable[int]) -> abc.Iterator[StepDemand]:
        """Yield the demands of steps that compute one row of each sequence, with logits: first of the rows before the
        positions `ends`, then of the next ones, and so on without end."""
        ends = list(ends)
        num, num_seen = len(ends), sum(ends)
        layers = (*self.full, *self.windows, *self.late_attention)
        everywhere = [each for each in layers if not each.window]
        windows = [each for each in layers if each.window]
        position_bytes = sum(each.bytes_per_position for each in everywhere)
        position_flops = sum(each.flops_per_position for each in everywhere)
        while True:
            kv_bytes, flops = num_seen * position_bytes, num_seen * position_flops
            for each in windows:
                of_rows = [each.of_rows(end - 1, end) for end in ends]
                kv_bytes += sum([num_bytes for num_bytes, _ in of_rows])
                flops += sum([num_flops for _, num_flops in of_rows])
            yield StepDemand(num, num, num, kv_bytes, flops)
            num_seen += num
            if windows:
                ends = [end + 1 for end in ends]

    def of(self, plan: StepPlan) -> StepWork:
        """Estimate the work of a plan's forward pass."""
        demand = self.demand(plan)
        state_bytes = demand.num_sequences * self.state_bytes
        read_bytes = demand.kv_bytes + self.weight_bytes(demand)
        written = demand.num_rows * self.written_per_row + state_bytes
        return StepWork(round(read_bytes) + state_bytes, written, demand.attention_flops + self.weight_flops(demand))

    def weight_bytes(self, demand: StepDemand) -> float:
        """Return the expected bytes of weights that a step reads."""
        num_bytes = self.every.read_bytes(demand.num_rows)
        if demand.num_logits:
            num_bytes += self.late.read_bytes(demand.num_logits) + self.head.num_bytes
        return num_bytes

    def weight_flops(self, demand: StepDemand) -> int:
        """Return the FLOPs of a step's products with weights."""
        of_logits = demand.num_logits * (self.late.flops_per_row + self.head.flops_per_row)
        return demand.num_rows * self.every.flops_per_row + of_logits
