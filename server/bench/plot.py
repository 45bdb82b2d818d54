"""A load's results as a picture: cumulative distributions of the latencies, and text over time."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import StartupError
from server.bench.load import Load

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def check_plotting(path: str) -> None:
    """Raise StartupError if no plot could be written to `path`; better before the measurement than after."""
    if find_spec("matplotlib") is None:
        raise StartupError("--plot needs matplotlib; install it with: pip install 'headrace[bench]'")
    if not Path(path).resolve().parent.is_dir():
        raise StartupError(f"--plot is {path}; its folder does not exist; create it")


def write_plot(path: str, load: Load, *, title: str) -> None:
    """Draw `load` to `path`; the suffix chooses the format (.png, .svg, .pdf). Raises StartupError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display or global state
    from matplotlib.figure import Figure

    completed = [trace for trace in load.traces if trace.error is None]
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    ((ttft, tpot), (itl, rate)) = figure.subplots(2, 2)
    _draw_cumulative(ttft, "time to first token, ms", [trace.ttft_ms for trace in completed])
    _draw_cumulative(tpot, "time per output token, ms", [t for trace in completed if (t := trace.tpot_ms) is not None])
    _draw_cumulative(itl, "gap between chunks of text, ms", [gap for trace in completed for gap in trace.itl_ms])
    _draw_rate(rate, load)
    figure.suptitle(title)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no format
        raise StartupError(f"cannot write the plot {path}: {error}") from error


def _draw_cumulative(axes: "Axes", label: str, sample: list[float]) -> None:
    if sample:
        axes.ecdf(sample)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.set_ylabel("share of sample")
    axes.grid(alpha=0.3)


def _draw_rate(axes: "Axes", load: Load) -> None:
    """Chunks of text a second in 100 slices of the load."""
    began_s = min(trace.sent_s for trace in load.traces)
    arrivals_s = [moment - began_s for trace in load.traces for moment in trace.text_s]
    slice_s = load.duration_s / 100
    axes.hist(arrivals_s, bins=100, range=(0, load.duration_s), weights=[1 / slice_s] * len(arrivals_s))
    axes.set_xlabel("s")
    axes.set_ylabel("chunks of text/s")
    axes.grid(alpha=0.3)
