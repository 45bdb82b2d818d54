"""Ratios of comparisons as a picture: a dot for the median, a line from the lowest round to the highest."""

import statistics
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.results import Results
from benchmarks.servers import CompareError


def check_plotting(path: Path) -> None:
    """Raise CompareError if no picture could be written to `path`; better before the measurement than after."""
    if find_spec("matplotlib") is None:
        raise CompareError("--plot needs matplotlib; install it with: pip install 'headrace[bench]'")
    if not path.resolve().parent.is_dir():
        raise CompareError(f"--plot is {path}; its folder does not exist; create it")


def write_chart(every: Sequence[Results], path: Path) -> None:
    """Draw what each scenario is about, a line for each rival. The suffix chooses the format. Raises CompareError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display or global state
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    lines = _lines(every)
    figure = Figure(figsize=(10, 1.5 + 0.32 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for height, (_, ratios) in enumerate(reversed(lines)):
        median = statistics.median(ratios)
        spread = [[median - min(ratios)], [max(ratios) - median]]
        axes.errorbar(
            [median], [height], xerr=spread, fmt="o", capsize=3, color="tab:blue" if median >= 1 else "tab:red"
        )
    axes.set_yticks(range(len(lines)), [label for label, _ in reversed(lines)])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"times as good: right of 1, {every[0].servers[0].name} is ahead")
    axes.grid(axis="x", alpha=0.3)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no format
        raise CompareError(f"cannot write the picture {path}: {error}") from error


def _lines(every: Sequence[Results]) -> list[tuple[str, list[float]]]:
    """Label and ratios of each scenario and rival."""
    return [
        (
            " ".join(filter(None, (results.title, scenario.name, f"({rows[0].metric.name})", "against", rival.name))),
            rows[0].ratios,
        )
        for results in every
        for scenario in results.scenarios()
        for rival in results.servers[1:]
        if (rows := results.rows(scenario, rival))
    ]
