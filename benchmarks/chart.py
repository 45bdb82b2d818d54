"""Chart of comparisons' ratios: a dot for the median, a line from the lowest round to the highest."""

import statistics
from collections.abc import Sequence

from benchmarks.results import Results
from engine.command_io.plotting import save_plot


def write_chart(comparisons: Sequence[Results], path: str) -> None:
    """Draw each scenario's first metric, with a line for each rival. `check_plotting` must have passed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, NullFormatter

    lines = _lines(comparisons)
    figure = Figure(figsize=(10, 1.5 + 0.32 * len(lines)), layout="constrained")
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
    axes.set_xlabel(f"times as good: right of 1, {comparisons[0].servers[0].name} is ahead")
    axes.grid(axis="x", alpha=0.3)
    save_plot(figure, path)


def _lines(comparisons: Sequence[Results]) -> list[tuple[str, list[float]]]:
    """Return label and ratios of each scenario and rival."""
    return [
        (
            " ".join(filter(None, (results.title, scenario.name, f"({rows[0].metric.name})", "against", rival.name))),
            rows[0].ratios,
        )
        for results in comparisons
        for scenario in results.scenarios()
        for rival in results.servers[1:]
        if (rows := results.rows(scenario, rival))
    ]
