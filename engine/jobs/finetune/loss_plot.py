"""Losses as a line of text, and as a picture."""

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path

from engine.jobs.finetune.results import StepResult
from engine.jobs.plotting import save_plot

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """A bar for each value, from the smallest to the largest; where there are more than `width`, for their means."""
    if not values:
        return ""
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[first:last]) / (last - first) for first, last in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def write_loss_plot(path: Path, results: Sequence[StepResult]) -> bool:
    """Draw the training loss of each step, its mean over the last steps, and the validation losses; False where
    matplotlib is not installed. Raises StartupError if the file cannot be written."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps, losses = [result.step for result in results], [result.train_loss for result in results]
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=1)
    axes.plot(steps, _smooth(losses), color="tab:blue", label="training")
    validated = [(result.step, result.valid_loss) for result in results if result.valid_loss is not None]
    if validated:
        axes.plot(*zip(*validated, strict=True), color="tab:orange", marker="o", label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    save_plot(figure, str(path))
    return True


def _smooth(values: Sequence[float]) -> list[float]:
    """Means of each value and those before it, over a tenth of all."""
    count = max(1, len(values) // 10)
    return [
        sum(values[max(0, place - count) : place]) / len(values[max(0, place - count) : place])
        for place in range(1, len(values) + 1)
    ]
