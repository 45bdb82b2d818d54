"""MetricSpec: the definition of one metric."""

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
    """Definition of one metric. `step` reads a gauge's value, a counter's increment or an observation from StepStats,
    or returns None for no observation. `step_by` has such a function for each value of the last label. Metrics
    with neither `step` nor `step_by` are set by the API process. `is_vllm`: vLLM has the metric under the same name,
    with these labels and `engine`."""

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
        """Unit for OpenMetrics, read from the end of the name; empty if it has none."""
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
