"""Plots of a job's results: as a line of text, and as an image file."""

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path

from engine.command_io.finetuning.results import Curve, ResultRow
from engine.command_io.plotting import save_plot

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Draw values as a line of block characters, scaled from the smallest to the largest. If there are more than
    `width` values, each character is a mean."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[first:last]) / (last - first) for first, last in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def write_training_plot(path: Path, results: Sequence[ResultRow], curve: Curve) -> bool:
    """Draw the curve's values of each step, their running mean, and the validations; return False if matplotlib is not
    installed. Raises StartupError if the file cannot be written."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    trained, validated = (_points(results, name) for name in (curve.train, curve.valid))
    if trained:
        steps, values = zip(*trained, strict=True)
        axes.plot(steps, values, color="tab:blue", alpha=0.3, linewidth=1)
        axes.plot(steps, _smooth(values), color="tab:blue", label="training")
        axes.legend()
    if validated:
        axes.plot(*zip(*validated, strict=True), color="tab:orange", marker="o", label="validation")
        axes.legend()
    axes.set_xlabel("step")
    axes.set_ylabel(curve.name)
    axes.set_ylim(bottom=min([0.0, *(value for _, value in (*trained, *validated))]))
    axes.grid(alpha=0.3)
    save_plot(figure, str(path))
    return True


def _points(results: Sequence[ResultRow], name: str) -> list[tuple[int, float]]:
    return [(result.step, value) for result in results if (value := getattr(result, name)) is not None]


def _smooth(values: Sequence[float]) -> list[float]:
    """Return trailing moving averages, with a window of a tenth of all values."""
    count = max(1, len(values) // 10)
    windows = (values[max(0, end - count) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
