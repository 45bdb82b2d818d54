"""Results of a comparison, saved as JSON after every load."""

import dataclasses
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scenarios import SCENARIOS, Metric, Result, Scenario
from engine.commands.bench.processor import processor_name


@dataclass(slots=True)
class MeasuredServer:
    name: str
    command: str
    version: str = ""
    start_s: list[float] = field(default_factory=list)  # of each start
    memory_mb: list[float] = field(default_factory=list)  # at the end of each round


@dataclass(slots=True)
class Results:
    """Results by scenario and server, one per round (`runs`). Rivals are compared with the first server.

    A comparison that was interrupted has fewer results for some servers than for others: see `rows`.
    """

    title: str
    date: str
    machine: str
    servers: list[MeasuredServer]
    runs: dict[str, dict[str, list[Result]]] = field(default_factory=dict)

    def add(self, scenario: Scenario, server: MeasuredServer, result: Result) -> None:
        self.runs.setdefault(scenario.name, {}).setdefault(server.name, []).append(result)

    def rows(self, scenario: Scenario, rival: MeasuredServer) -> "list[Row]":
        """Return the metrics of a scenario over the rounds in which both the first server and `rival` were measured."""
        runs = self.runs.get(scenario.name, {})
        pairs = list(zip(runs.get(self.servers[0].name, []), runs.get(rival.name, []), strict=False))
        if not pairs:
            return []
        of_first, of_rival = zip(*pairs, strict=True)
        return [
            Row(metric, *(list(map(metric.of, each)) for each in (of_first, of_rival))) for metric in scenario.metrics
        ]

    def scenarios(self) -> list[Scenario]:
        return [SCENARIOS[name] for name in SCENARIOS if name in self.runs]

    def save(self, path: Path) -> None:
        """Write all results to `path` atomically."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> "Results":
        fields: dict[str, Any] = json.loads(path.read_text())
        return cls(**{**fields, "servers": [MeasuredServer(**each) for each in fields["servers"]]})


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of the first server and of a rival, with a value per round."""

    metric: Metric
    of_first: list[float]
    of_rival: list[float]

    @property
    def ratios(self) -> list[float]:
        return round_ratios(self.of_first, self.of_rival, less_is_better=self.metric.less_is_better)


def machine_name() -> str:
    return f"{processor_name()}, {os.cpu_count()} cores"


def round_ratios(of_first: Sequence[float], of_rival: Sequence[float], *, less_is_better: bool) -> list[float]:
    """Return how far the first server is ahead in each round: 2 is twice as good, for any metric."""
    return [b / a if less_is_better else a / b for a, b in zip(of_first, of_rival, strict=True)]


def show_spread(values: Sequence[float], digits: int = 1) -> str:
    low, middle, high = (f"{each:,.{digits}f}" for each in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}-{high})"
