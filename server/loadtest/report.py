"""The results of a load: tables for people, JSON for programs, and a plot."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from engine.command_io.plotting import draw_cumulative, save_plot
from engine.command_io.results import write_results
from server.loadtest.config import LoadConfig
from server.loadtest.load import LoadRun
from server.loadtest.metrics import Distribution, Summary, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BUSY_CLIENT = 0.25
_LATENCIES = {
    "ttft_ms": "TTFT, to the first token",
    "tpot_ms": "TPOT, per output token",
    "itl_ms": "ITL, between chunks",
    "e2el_ms": "E2EL, end to end",
}


def print_report(console: Console, config: LoadConfig, model: str, load: LoadRun, summary: Summary) -> None:
    """Print throughput, latencies, errors, and notes about what may distort the results."""
    console.print(_throughput_table(config, model, summary))
    console.print(_latency_table(summary))
    for message, count in summary.errors.items():
        console.print(f"{count} x {message}", style="red", markup=False)
    for warning in _warnings(config, load, summary):
        console.print(f"note: {warning}", style="yellow", markup=False)


def _throughput_table(config: LoadConfig, model: str, summary: Summary) -> Table:
    table = Table(title=f"{model} at {config.url}", box=box.SIMPLE, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("requests completed", f"{summary.completed:,}")
    table.add_row("requests failed", f"{summary.failed:,}")
    table.add_row("duration, s", f"{summary.duration_s:.2f}")
    cached = "" if summary.cached_tokens is None else f" ({summary.cached_tokens:,} of them cached)"
    table.add_row(f"prompt tokens{cached}", f"{summary.prompt_tokens:,}")
    table.add_row("output tokens", f"{summary.output_tokens:,}")
    table.add_row("requests/s", f"{summary.request_throughput:.3f}")
    if summary.request_goodput is not None:
        table.add_row(f"goodput, requests/s ({' '.join(config.goodput)})", f"{summary.request_goodput:.3f}")
    table.add_row("output tokens/s", f"{summary.output_throughput:.1f}")
    table.add_row("prompt and output tokens/s", f"{summary.total_token_throughput:.1f}")
    return table


def _latency_table(summary: Summary) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("ms")
    for name in ("mean", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right")
    for field, title in _LATENCIES.items():
        latency: Distribution = getattr(summary, field)
        values = (latency.mean, latency.p50, latency.p90, latency.p99, latency.max)
        table.add_row(title, *("-" if math.isnan(value) else f"{value:,.1f}" for value in values))
    return table


def _warnings(config: LoadConfig, load: LoadRun, summary: Summary) -> list[str]:
    warnings = []
    is_fresh = not config.prefix_len and config.num_turns == 1 and config.dataset_path is None
    if is_fresh and summary.cached_tokens and summary.cached_tokens > 0.05 * summary.prompt_tokens:
        warnings.append(
            "the server had cached some of these prompts; restart it or use another --seed to measure the time to "
            "first token without the cache"
        )
    if load.client_cpu_share > _BUSY_CLIENT:
        warnings.append(
            f"this client used {load.client_cpu_share:.0%} of a core; run it on another machine if the server needs it"
        )
    return warnings


def save_results(path: str, config: LoadConfig, model: str, load: LoadRun, summary: Summary) -> None:
    """Write options, summary and all requests to `path`. Raises StartupError if it cannot be written."""
    began_s = min(trace.sent_s for trace in load.traces)
    result = {
        "model": model,
        "config": dataclasses.asdict(config),
        "summary": dataclasses.asdict(summary),
        "client_cpu_share": load.client_cpu_share,
        "requests": [_request_record(trace, began_s) for trace in load.traces],
    }
    write_results(path, result)


def _request_record(trace: Trace, began_s: float) -> dict[str, Any]:
    return {
        "sent_s": trace.sent_s - began_s,
        "prompt_tokens": trace.prompt_tokens,
        "output_tokens": trace.output_tokens,
        "cached_tokens": trace.cached_tokens,
        "ttft_ms": trace.ttft_ms,
        "tpot_ms": trace.tpot_ms,
        "e2el_ms": trace.e2el_ms,
        "itl_ms": trace.itl_ms,
        "error": trace.error,
    }


def plot_load(path: str, load: LoadRun, *, title: str) -> None:
    """Draw `load` to `path`, whose suffix sets the format. Raises StartupError if it cannot be written."""
    from matplotlib.figure import Figure

    completed = [trace for trace in load.traces if trace.error is None]
    figure = Figure(figsize=(12, 7), layout="constrained")
    ((ttft, tpot), (itl, rate)) = figure.subplots(2, 2)
    draw_cumulative(ttft, "time to first token, ms", [trace.ttft_ms for trace in completed])
    draw_cumulative(tpot, "time per output token, ms", [t for trace in completed if (t := trace.tpot_ms) is not None])
    draw_cumulative(itl, "gap between chunks of text, ms", [gap for trace in completed for gap in trace.itl_ms])
    _draw_rate(rate, load)
    figure.suptitle(title)
    save_plot(figure, path)


def _draw_rate(axes: "Axes", load: LoadRun) -> None:
    """Draw chunks of text per second in 100 slices of the load."""
    began_s = min(trace.sent_s for trace in load.traces)
    arrivals_s = [moment - began_s for trace in load.traces for moment in trace.text_s]
    slice_s = load.duration_s / 100
    axes.hist(arrivals_s, bins=100, range=(0, load.duration_s), weights=[1 / slice_s] * len(arrivals_s))
    axes.set_xlabel("s")
    axes.set_ylabel("chunks of text/s")
    axes.grid(alpha=0.3)
