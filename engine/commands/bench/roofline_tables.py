"""Tables of the results of `headrace bench roofline`."""

from rich import box
from rich.console import Group
from rich.table import Table

from engine.commands.bench.roofline import Roofline, RooflineResult


def roofline_tables(roofline: Roofline) -> Group:
    """Return tables of the machine, of all prefills and decode steps, and of the phases of each."""
    return Group(_machine_table(roofline), _overview(roofline), *map(_phase_table, roofline.results))


def _machine_table(roofline: Roofline) -> Table:
    machine = roofline.machine
    threads = f", {machine.threads} threads" if machine.device == "cpu" else ""
    shown = Table(
        title=f"{machine.name} ({machine.device}{threads})", box=box.SIMPLE, show_header=False, title_justify="left"
    )
    shown.add_column()
    shown.add_column(justify="right")
    shown.add_row(f"read from {machine.buffer_bytes / 2**20:,.0f} MiB, GB/s", f"{machine.read_bytes_per_s / 1e9:,.1f}")
    for dtype, rate in machine.gemm_flops_per_s.items():
        unit = "GOP/s" if dtype == "int8" else "GFLOP/s"
        shown.add_row(f"matrix product in {dtype}, {unit}", f"{rate / 1e9:,.0f}")
    return shown


def _overview(roofline: Roofline) -> Table:
    shown = Table(
        title="Steps without clocks in them, and the share of the limit that they reach",
        box=box.SIMPLE,
        title_justify="left",
    )
    shown.add_column()
    for column in ("ms", "tokens/s", "read, GB/s", "limit, ms", "share"):
        shown.add_column(column, justify="right")
    for result in roofline.results:
        shown.add_row(
            result.name,
            f"{result.ms:,.2f}",
            f"{result.num_tokens / result.ms * 1e3:,.0f}",
            f"{result.read_bytes_per_s / 1e9:,.1f}",
            f"{result.limit_ms:,.2f}",
            f"{result.limit_ms / result.ms:.0%}",
        )
    return shown


def _phase_table(result: RooflineResult) -> Table:
    clocked_ms = sum(phase.ms for phase in result.phases)
    shown = Table(
        title=f"{result.name}: {clocked_ms:,.2f} ms with clocks", box=box.SIMPLE, title_justify="left", show_edge=False
    )
    shown.add_column("phase", no_wrap=True)
    for column in ("ms", "of step", "MB", "GFLOP", "limit, ms", "share"):
        shown.add_column(column, justify="right")
    for phase in result.phases:
        shown.add_row(
            phase.phase,
            f"{phase.ms:,.3f}",
            f"{phase.ms / clocked_ms:.1%}",
            f"{phase.num_bytes / 1e6:,.2f}" if phase.num_bytes else "-",
            f"{phase.flops / 1e9:,.3f}" if phase.flops else "-",
            "-" if phase.limit_ms is None else f"{phase.limit_ms:,.3f}",
            "-" if phase.share is None else f"{phase.share:.0%}",
        )
    return shown
