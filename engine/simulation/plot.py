"""The plot of a simulation: times, open requests, and the replicas beside each other."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.command_io.plotting import draw_cumulative, save_plot
from engine.simulation.fleet import RequestFate
from engine.simulation.hardware import SimulatedModel
from engine.simulation.report import figure
from engine.simulation.results import MODELED, SimulationResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SLICES = 200  # of time


def plot_simulation(
    path: str, fates: Sequence[RequestFate], result: SimulationResult, model: SimulatedModel, policy: str
) -> None:
    """Draw a simulation to `path`, whose suffix sets the format. Raises StartupError if it cannot be written.
    `check_plotting` must have checked the path."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(12, 7), layout="constrained")
    ((ttft, token), (opened, replicas)) = drawn.subplots(2, 2)
    draw_cumulative(ttft, "time to first token, ms", [s * 1e3 for fate in fates if (s := fate.ttft_s) is not None])
    draw_cumulative(token, "time per further token, ms", [s * 1e3 for fate in fates if (s := fate.token_s) is not None])
    _draw_open(opened, fates)
    _draw_replicas(replicas, result)
    cost = result.cost_per_million_output_tokens
    priced = "" if cost is None else f", {figure(cost, 4)} for a million output tokens"
    servers = f"{len(result.replicas):,} x {model.hardware} ({MODELED}; its figures: {model.origin})"
    drawn.suptitle(
        f"{model.model} on {servers}, {policy}\n"
        f"{result.requests:,} requests, {figure(result.output_tokens_per_s)} output tokens/s, "
        f"{result.preemptions:,} preemptions{priced}"
    )
    save_plot(drawn, path)


def _draw_open(axes: "Axes", fates: Sequence[RequestFate]) -> None:
    """Draw how many requests wait for their first token, and how many are being answered, on average over slices."""
    waits, answers = [], []
    for fate in fates:
        if fate.first_token_s is not None and fate.ended_s is not None:
            waits.append((fate.request.arrival_s, fate.first_token_s))
            answers.append((fate.first_token_s, fate.ended_s))
    slice_s = max((end for _, end in answers), default=1.0) / _SLICES
    begins = [number * slice_s for number in range(_SLICES)]
    for label, spans in (("waiting for the first token", waits), ("being answered", answers)):
        axes.plot(begins, _mean_open(spans, slice_s), drawstyle="steps-post", label=label)
    axes.set(xlabel="s", ylabel="requests", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)


def _mean_open(spans: Sequence[tuple[float, float]], slice_s: float) -> list[float]:
    """Return how many of the spans, in seconds, are open on average in each slice."""
    means = [0.0] * _SLICES
    for begin, end in spans:
        for number in range(int(begin / slice_s), min(int(end / slice_s) + 1, _SLICES)):
            means[number] += (min(end, (number + 1) * slice_s) - max(begin, number * slice_s)) / slice_s
    return means


def _draw_replicas(axes: "Axes", result: SimulationResult) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = range(len(result.replicas))
    for label, shares, shift in (
        ("utilization", [each.utilization for each in result.replicas], -0.2),
        ("prompt tokens from the prefix cache", [each.prefix_hits for each in result.replicas], 0.2),
    ):
        axes.bar([number + shift for number in numbers], [100 * share for share in shares], width=0.4, label=label)
    axes.set(xlabel="replica", ylabel="%", ylim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    axes.grid(alpha=0.3, axis="y")
