"""The results of `headrace bench spec` as a table, and as a picture of speed-up against batch size."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from engine.command_io.bench_config import SpeculationConfig
from engine.command_io.plotting import save_plot
from engine.commands.bench.speculation import SpeculationResult


def table(results: Sequence[SpeculationResult], config: SpeculationConfig) -> Table:
    shown = Table(
        title=f"{config.output_len} tokens out; medians of {config.num_iters} turns (lowest-highest)",
        box=box.SIMPLE,
        title_justify="left",
    )
    shown.add_column("drafts, text")
    for column in ("batch", "without, tokens/s", "with, tokens/s", "speed-up", "drafted", "accepted", "same text"):
        shown.add_column(column, justify="right")
    last = ""
    for result in results:
        if last and result.case != last:
            shown.add_section()
        shown.add_row(
            "" if result.case == last else result.case,
            str(result.batch_size),
            result.plain_tokens_per_s.show(),
            result.tokens_per_s.show(),
            result.speedup.show(2),
            f"{result.draft_length:.1f}",
            f"{result.acceptance:.0%}",
            f"{result.same_texts:.0%}" if config.temperature == 0 else "-",
        )
        last = result.case
    return shown


def write_plot(path: str, results: Sequence[SpeculationResult], model: str) -> None:
    """A line for each case, with the range over the turns. `check_plotting` has checked that it can be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for case in dict.fromkeys(result.case for result in results):
        own = sorted((result for result in results if result.case == case), key=lambda result: result.batch_size)
        sizes = [result.batch_size for result in own]
        (line,) = axes.plot(sizes, [result.speedup.median for result in own], marker="o", label=case)
        lows, highs = [result.speedup.low for result in own], [result.speedup.high for result in own]
        axes.fill_between(sizes, lows, highs, alpha=0.15, color=line.get_color())
    axes.axhline(1.0, color="gray", linewidth=0.8)
    axes.set(xlabel="sequences at once", ylabel="speed-up by drafts", title=model, ylim=(0, None))
    axes.set_xscale("log", base=2)
    all_sizes = sorted({result.batch_size for result in results})
    axes.set_xticks(all_sizes, [str(size) for size in all_sizes])
    axes.legend()
    axes.grid(alpha=0.3)
    save_plot(figure, path)
