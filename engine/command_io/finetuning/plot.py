"""Plots of a job's results: as a line of text, and as an SVG file."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from engine.command_io.finetuning.job import write_atomically
from engine.command_io.finetuning.results import Curve, ResultRow

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 800, 450
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 28, 48
_SVG = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="13">
<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>
{{parts}}
</svg>
"""
_GRID = 'stroke="#ddd"'
_TRAINED = 'fill="none" stroke="#1f77b4"'
_VALIDATED = 'fill="none" stroke="#d95f02"'
_RIGHT_ALIGNED, _CENTERED = 'text-anchor="end"', 'text-anchor="middle"'


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


def write_training_plot(path: Path, results: Sequence[ResultRow], curve: Curve) -> None:
    """Draw the curve's values of each step, their running mean, and the validations, as an SVG file. Raises OSError."""
    trained, validated = (_points(results, name) for name in (curve.train, curve.valid))
    write_atomically(path, _drawing(trained, validated, curve.name).encode())


def _drawing(trained: Sequence[tuple[int, float]], validated: Sequence[tuple[int, float]], name: str) -> str:
    values = [value for _, value in (*trained, *validated)]
    x_step = _tick_step(max([1, *(step for step, _ in (*trained, *validated))]))
    y_step = _tick_step(max([0.0, *values]) - min([0.0, *values]))
    last = x_step * math.ceil(max([1, *(step for step, _ in (*trained, *validated))]) / x_step)
    low, high = y_step * math.floor(min([0.0, *values]) / y_step), y_step * math.ceil(max([y_step, *values]) / y_step)

    def at(step: float, value: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    def line(points: Sequence[tuple[float, float]], style: str) -> str:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        return f'<polyline points="{path}" {style}/>' if points else ""

    def text(x: float, y: float, words: str, more: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'

    parts = []
    for value in _ticks(low, high, y_step):
        x, y = at(0, value)
        parts += [line([(0, value), (last, value)], _GRID), text(x - 6, y + 4, f"{value:g}", _RIGHT_ALIGNED)]
    for step in _ticks(0, last, x_step):
        x, y = at(step, low)
        parts.append(text(x, y + 18, f"{step:g}", _CENTERED))
    smooth = list(zip((step for step, _ in trained), _smooth([value for _, value in trained]), strict=True))
    parts += [
        line(trained, _TRAINED + ' stroke-width="1" stroke-opacity="0.35"'),
        line(smooth, _TRAINED + ' stroke-width="2"'),
        line(validated, _VALIDATED + ' stroke-width="2"'),
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#d95f02"/>' for x, y in (at(*each) for each in validated)),
        text(_WIDTH / 2, _HEIGHT - 8, "step", _CENTERED),
        text(_LEFT, 16, f"{name} in training", 'fill="#1f77b4"'),
    ]
    if validated:
        parts.append(text(_WIDTH / 2, 16, f"{name} on the validation file", 'fill="#d95f02"'))
    return _SVG.format(parts="\n".join(part for part in parts if part))


def _tick_step(span: float) -> float:
    """Return the distance of ticks, 1, 2 or 5 times a power of ten, for at most six of them."""
    power = 10.0 ** math.floor(math.log10(span)) if span > 0 else 0.1
    return next(step for factor in (0.2, 0.5, 1.0, 2.0) if (step := factor * power) * 5 >= span)


def _ticks(low: float, high: float, step: float) -> list[float]:
    return [low + step * number for number in range(round((high - low) / step) + 1)]


def _points(results: Sequence[ResultRow], name: str) -> list[tuple[int, float]]:
    return [(result.step, value) for result in results if (value := getattr(result, name)) is not None]


def _smooth(values: Sequence[float]) -> list[float]:
    """Return trailing moving averages, with a window of a tenth of all values."""
    count = max(1, len(values) // 10)
    windows = (values[max(0, end - count) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
