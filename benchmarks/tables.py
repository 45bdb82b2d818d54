"""Tables of comparisons: for the terminal, and in Markdown from the JSON of finished comparisons.

.venv/bin/python -m benchmarks.tables qwen-q4.json qwen-bf16.json
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.chart import write_chart
from benchmarks.results import MeasuredServer, Results, Row, show_spread
from benchmarks.scenarios import SCENARIOS
from engine.command_io.plotting import check_plotting
from engine.errors import StartupError


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tables", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="what `benchmarks.compare --json` wrote")
    parser.add_argument("--plot", metavar="FILE", help="also draw the ratios of all files")
    options = parser.parse_args()
    results = [Results.load(file) for file in options.files]
    sys.stdout.write("\n\n".join([ratios_table(results), *map(results_table, results)]) + "\n")
    if options.plot is not None:
        try:
            check_plotting(options.plot)
            write_chart(results, options.plot)
        except StartupError as error:
            sys.stderr.write(f"tables: {error}\n")
            return 1
    return 0


# --- Markdown --------------------------------------------------------------------------------------------------------


def ratios_table(comparisons: Sequence[Results]) -> str:
    """Return a line per scenario and a column per rival: the first server's lead in the scenario's main metric."""
    rivals = [(results, rival) for results in comparisons for rival in results.servers[1:]]
    head = [f"{results.title}: {rival.name}" if results.title else rival.name for results, rival in rivals]
    lines = []
    for scenario in SCENARIOS.values():
        cells = []
        for results, rival in rivals:
            rows = results.rows(scenario, rival)
            cells.append(show_spread(rows[0].ratios, digits=2) if rows else "-")
        if any(cell != "-" for cell in cells):
            lines.append([f"{scenario.name}, {scenario.metrics[0].name}", *cells])
    return markdown(["times as good", *head], lines)


def results_table(results: Results) -> str:
    """Return every metric of every scenario, with columns for each server's median and each ratio, and their spread."""
    first, *rivals = results.servers
    head = [results.title, first.name]
    for rival in rivals:
        head += [rival.name, "ratio"]
    lines = [
        [label, show_spread(of_rivals[0].of_first), *(cell for row in of_rivals for cell in _rival_cells(row))]
        for label, of_rivals in _lines(results)
    ]
    lines += [_figures("start, s", [each.start_s for each in results.servers])]
    lines += [_figures("memory, MB", [each.memory_mb for each in results.servers])]
    return markdown(head, lines)


def _lines(results: Results) -> Iterator[tuple[str, list[Row]]]:
    """Yield a metric's label and its row for each rival, without scenarios that some server has not finished."""
    for scenario in results.scenarios():
        of_rivals = [results.rows(scenario, rival) for rival in results.servers[1:]]
        if all(of_rivals):
            for rows in zip(*of_rivals, strict=True):
                yield f"{scenario.name}, {rows[0].metric.name}", list(rows)


def _rival_cells(row: Row) -> tuple[str, str]:
    return show_spread(row.of_rival), show_spread(row.ratios, digits=2)


def _figures(label: str, of_servers: Sequence[list[float]]) -> list[str]:
    first, *rivals = (f"{statistics.median(values):,.1f}" if values else "-" for values in of_servers)
    cells = [label, first]
    for rival in rivals:
        cells += [rival, ""]
    return cells


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)


# --- Terminal --------------------------------------------------------------------------------------------------------


def print_results(results: Results) -> None:
    console = Console(width=max(100, Console().width))
    first, *rivals = results.servers
    if results.title:
        console.print(results.title, markup=False, highlight=False)
    for server in results.servers:
        console.print(f"{server.name} {server.version}: {server.command}", markup=False, highlight=False)
    console.print(f"Medians (lowest-highest). A ratio above 1 means that {first.name} is ahead.")
    for rival in rivals:
        for scenario in results.scenarios():
            if rows := results.rows(scenario, rival):
                title = f"{scenario.name}: {scenario.title}; {len(rows[0].ratios)} rounds"
                console.print(_terminal_table(title, rows, first, rival))
    console.print(_servers_table(results))


def _terminal_table(title: str, rows: Sequence[Row], first: MeasuredServer, rival: MeasuredServer) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    table.add_column("")
    for column in (first.name, rival.name, "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row.metric.name, show_spread(row.of_first), *_rival_cells(row))
    return table


def _servers_table(results: Results) -> Table:
    table = Table(title="servers", box=box.SIMPLE, title_justify="left")
    for column in ("", "start, s", "memory, MB"):
        table.add_column(column, justify="right" if column else "left")
    for server in results.servers:
        cells = (show_spread(each) if each else "-" for each in (server.start_s, server.memory_mb))
        table.add_row(server.name, *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
