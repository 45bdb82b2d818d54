"""Plots in files: checking that one can be written, a cumulative curve, and writing it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import OptionError, StartupError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def check_plotting(path: str) -> None:
    """Raise OptionError if no plot can be written to `path`; to be called before a long measurement."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise OptionError("--plot needs matplotlib; install it with: pip install 'headrace[bench]'") from None
    suffix = Path(path).suffix.removeprefix(".").lower()
    if suffix not in FigureCanvasAgg.get_supported_filetypes():
        raise OptionError(f"--plot is {path}; its suffix must name a format, such as .png, .svg or .pdf")
    if not Path(path).resolve().parent.is_dir():
        raise OptionError(f"--plot is {path}; its folder does not exist; create it")


def draw_cumulative(axes: "Axes", label: str, sample: Sequence[float]) -> None:
    """Draw the share of `sample` that is at most each value."""
    if sample:
        axes.ecdf(sample)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.set_ylabel("share of sample")
    axes.grid(alpha=0.3)


def save_plot(figure: "Figure", path: str) -> None:
    """Write `figure` in the format of the path's suffix. Raises StartupError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display or global state

    FigureCanvasAgg(figure)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise StartupError(f"cannot write the plot {path}: {error}") from error
