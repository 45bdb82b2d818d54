"""MetricSpec: one row of the table of metrics."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from engine.protocol import StepStats

PREFIX = "headrace_"

MODEL = "model_name"

_UNITS = frozenset({"seconds", "bytes"})

Read = Callable[[StepStats], float | None]


class MetricType(enum.StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One row of the table. `step` reads a gauge's value, a counter's increment or an observation; None means no
    observation. `step_by` reads one for each value of the last label. Rows with neither are set by the API process.
    `is_vllm`: vLLM has the metric under the same name, with these labels and `engine`."""

    type: MetricType
    name: str
    help: str
    step: Read | None = None
    labels: tuple[str, ...] = (MODEL,)
    buckets: tuple[float, ...] = ()
    is_vllm: bool = False
    step_by: Mapping[str, Read] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """Unit for OpenMetrics, which is a part of the name; empty for plain numbers."""
        ending = self.name.removesuffix("_total").rpartition("_")[2]
        return ending if ending in _UNITS else ""

    @property
    def exported(self) -> str:
        """Name in /metrics."""
        return PREFIX + self.name


counter = partial(MetricSpec, MetricType.COUNTER)
gauge = partial(MetricSpec, MetricType.GAUGE)


def histogram(
    name: str,
    help: str,
    buckets: tuple[float, ...],
    step: Read | None = None,
    *,
    labels: tuple[str, ...] = (MODEL,),
    is_vllm: bool = False,
) -> MetricSpec:
    return MetricSpec(MetricType.HISTOGRAM, name, help, step, labels, buckets, is_vllm)
