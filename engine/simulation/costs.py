"""Seconds of a step, from its sizes: on a card, by its published figures, or on a machine, by measured steps."""

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from engine.scheduling.steps.work import ModelWork, StepDemand


class StepSeconds(Protocol):
    """A model of the seconds that a step takes."""

    def step_s(self, demand: StepDemand) -> float: ...


# Qwen3-8B in bf16, one stream on an H100, vLLM 0.11: 7.28 ms a token, where its 16.4 GB take 4.9 ms. Qwen3.5-9B on an
# H100, vLLM 0.17, 1,024 and 128 tokens: 34,470 tokens a second, or 0.62 of 989e12 operations.
READ_EFFICIENCY, COMPUTE_EFFICIENCY = 0.67, 0.62
EFFICIENCY_SOURCE = "GPUStack performance lab (docs/performance-lab), one H100, 2025 and 2026"


@dataclass(frozen=True, slots=True)
class Card:
    """Limits of a card by published figures, or of a machine by measurement. Steps reach the shares of them that
    engines have reached in published measurements."""

    name: str
    read_bytes_per_s: float
    flops_per_s: float  # of a card: dense, in bf16 with fp32 sums
    memory_bytes: int
    source: str


_GB = 10**9
_TB = 10**12
CARDS: dict[str, Card] = {
    each.name: each
    for each in (
        Card("a100", 2.039 * _TB, 312e12, 80 * _GB, "NVIDIA A100 data sheet (1758950-r4), SXM with 80 GB"),
        Card("h100", 3.35 * _TB, 989e12, 80 * _GB, "NVIDIA H100 data sheet, SXM"),
        Card("h200", 4.8 * _TB, 989e12, 141 * _GB, "NVIDIA H200 product page, SXM"),
        Card("l4", 0.3 * _TB, 121e12, 24 * _GB, "NVIDIA L4 product page"),
        Card("l40s", 0.864 * _TB, 362e12, 48 * _GB, "NVIDIA L40S data sheet"),
        Card("rtx4090", 1.008 * _TB, 165.2e12, 24 * _GB, "NVIDIA Ada GPU architecture white paper, appendix"),
    )
}
# Against copies of the sources. H100, H200 and L4 are listed there with sparsity, at twice the dense operations.
CARDS_CHECKED = "2026-12"


class CardTimes:
    """Times of steps by the roofline model. Products with weights take the longer of reading the weights and of the
    operations, and so does attention; one follows the other."""

    def __init__(self, card: Card, work: ModelWork) -> None:
        self._work = work
        self._weights_s: dict[tuple[int, int], float] = {}  # by rows and rows of logits, which seldom change
        self._read_s = 1 / (card.read_bytes_per_s * READ_EFFICIENCY)  # of a byte
        self._flop_s = 1 / (card.flops_per_s * COMPUTE_EFFICIENCY)

    def step_s(self, demand: StepDemand) -> float:
        work, sizes = self._work, (demand.num_rows, demand.num_logits)
        if (weights_s := self._weights_s.get(sizes)) is None:
            weights_s = max(work.weight_bytes(demand) * self._read_s, work.weight_flops(demand) * self._flop_s)
            self._weights_s[sizes] = weights_s
        attention_s = max(demand.kv_bytes * self._read_s, demand.attention_flops * self._flop_s)
        moved = demand.num_rows * work.written_per_row + 2 * demand.num_sequences * work.state_bytes
        return weights_s + attention_s + moved * self._read_s


@dataclass(frozen=True, slots=True)
class MeasuredTimes:
    """Times of steps by measurement: interpolated over the number of rows, with attention apart.

    rows_s: seconds of all parts that grow with the rows of a step. sequences_s: seconds of all parts that grow with its
    sequences, such as sampling and the scheduler. Both are points (number, seconds) in rising order; beyond the last
    one, the last slope continues.
    """

    rows_s: tuple[tuple[int, float], ...]
    sequences_s: tuple[tuple[int, float], ...]
    kv_byte_s: float  # seconds for each byte of keys and values that is read
    attention_flop_s: float

    def step_s(self, demand: StepDemand) -> float:
        attention_s = demand.kv_bytes * self.kv_byte_s + demand.attention_flops * self.attention_flop_s
        return _interpolated(self, demand.num_rows, demand.num_logits) + attention_s

    def with_weights(self, old_bytes: int, new_bytes: int) -> "MeasuredTimes":
        """Return the times with weights of another size, which every step reads as fast as the smallest measured one
        does. Other operations of another format are not modeled."""
        change_s = self.rows_s[0][1] * (new_bytes - old_bytes) / old_bytes
        return replace(self, rows_s=tuple((number, max(0.0, value_s + change_s)) for number, value_s in self.rows_s))


@lru_cache(4096)
def _interpolated(times: MeasuredTimes, num_rows: int, num_logits: int) -> float:
    return interpolate(times.rows_s, num_rows) + interpolate(times.sequences_s, num_logits)


def interpolate(points: tuple[tuple[int, float], ...], number: int) -> float:
    """Return the value at `number`. points: in rising order; outside of them, the nearest slope continues."""
    if len(points) == 1:
        return points[0][1]
    index = min(max(1, bisect_right(points, number, key=lambda point: point[0])), len(points) - 1)
    (low, low_s), (high, high_s) = points[index - 1], points[index]
    return max(0.0, low_s + (high_s - low_s) * (number - low) / (high - low))
