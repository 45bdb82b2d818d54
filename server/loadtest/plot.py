"""plot_load: draws the results of a load: cumulative distributions of the latencies, and text over time."""

from typing import TYPE_CHECKING

from engine.command_io.plotting import save_plot
from server.loadtest.load import LoadRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_load(path: str, load: LoadRun, *, title: str) -> None:
    """Draw `load` to `path`, whose suffix sets the format. Raises StartupError."""
    from matplotlib.figure import Figure

    completed = [trace for trace in load.traces if trace.error is None]
    figure = Figure(figsize=(12, 7), layout="constrained")
    ((ttft, tpot), (itl, rate)) = figure.subplots(2, 2)
    _draw_cumulative(ttft, "time to first token, ms", [trace.ttft_ms for trace in completed])
    _draw_cumulative(tpot, "time per output token, ms", [t for trace in completed if (t := trace.tpot_ms) is not None])
    _draw_cumulative(itl, "gap between chunks of text, ms", [gap for trace in completed for gap in trace.itl_ms])
    _draw_rate(rate, load)
    figure.suptitle(title)
    save_plot(figure, path)


def _draw_cumulative(axes: "Axes", label: str, sample: list[float]) -> None:
    if sample:
        axes.ecdf(sample)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.set_ylabel("share of sample")
    axes.grid(alpha=0.3)


def _draw_rate(axes: "Axes", load: LoadRun) -> None:
    """Draw chunks of text per second in 100 slices of the load."""
    began_s = min(trace.sent_s for trace in load.traces)
    arrivals_s = [moment - began_s for trace in load.traces for moment in trace.text_s]
    slice_s = load.duration_s / 100
    axes.hist(arrivals_s, bins=100, range=(0, load.duration_s), weights=[1 / slice_s] * len(arrivals_s))
    axes.set_xlabel("s")
    axes.set_ylabel("chunks of text/s")
    axes.grid(alpha=0.3)
