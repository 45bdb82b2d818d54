"""Figures of a stage, with their limits and others' published figures, and the table of all."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tables import markdown


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement. limit: what it must reach, or must not exceed unless `more_is_better`; None: only reported.

    published: vLLM's figure on one H100, if there is one. note: a reason in place of a value that could not be had.
    """

    name: str
    value: float | None
    unit: str = ""
    limit: float | None = None
    more_is_better: bool = True
    published: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """The result in a word: "pass", "FAIL", or "" if there is no limit."""
        if self.limit is None:
            return ""
        if self.value is None:
            return "FAIL"
        is_within = self.value >= self.limit if self.more_is_better else self.value <= self.limit
        return "pass" if is_within else "FAIL"


@dataclass(slots=True)
class StageResult:
    """Figures of a stage. ending: "" if it ended by itself, or how it was cut short."""

    name: str
    seconds: float = 0.0
    ending: str = ""
    figures: list[Figure] = field(default_factory=list)


def save_json(path: Path, value: Any) -> None:
    """Write JSON to `path` atomically, so that a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(partial, path)


def save_figures(path: Path, figures: Iterable[Figure]) -> None:
    save_json(path, [asdict(figure) for figure in figures])


def load_figures(path: Path) -> list[Figure]:
    """Return the figures that a stage has saved so far; [] if it saved none."""
    return [Figure(**each) for each in json.loads(path.read_text())] if path.exists() else []


def table(results: Sequence[StageResult]) -> str:
    """Return all figures as a Markdown table, with a line for each stage that was cut short."""
    lines = []
    for result in results:
        for figure in result.figures:
            sign = "" if figure.limit is None else ">= " if figure.more_is_better else "<= "
            lines.append(
                [
                    result.name,
                    figure.name,
                    figure.note or _show(figure.value, figure.unit),
                    f"{sign}{_show(figure.limit, figure.unit)}",
                    _show(figure.published, figure.unit),
                    figure.verdict,
                ]
            )
        if result.ending:
            lines.append([result.name, result.ending, "", "", "", "FAIL"])
    return markdown(["stage", "figure", "value", "limit", "vLLM, published", "result"], lines)


def _show(value: float | None, unit: str) -> str:
    if value is None or not math.isfinite(value):
        return "" if value is None else str(value)
    if value and abs(value) < 0.1:
        return f"{value:.2g} {unit}".strip()
    digits = 0 if abs(value) >= 1000 or value == int(value) else 1 if abs(value) >= 100 else 3
    return f"{value:,.{digits}f} {unit}".strip()
