"""The panel that a start ends with on a terminal: what is served, from which memory, who may call, and what to try."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engine.command_io.program import program
from engine.protocol import EngineInfo
from server.commands.serve.model_rows import model_rows

_NARROW = 60  # columns of a terminal without room for a border
_WIDEST = 100
_MAX_NAMES = 3  # of adapters

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Started:
    """address: where it listens, for people. models: name -> info; None of one that is loaded when it is asked for.

    adapters: names of those that are served; None where no model can have any. tries: what to try next, as label and
    what to open or type.
    """

    version: str
    address: str
    models: Mapping[str, EngineInfo | None]
    keys: str
    tries: Rows
    adapters: Sequence[str] | None = None
    is_finetuning: bool = False  # whether jobs can be created


def show_panel(console: Console, started: Started) -> None:
    """Draw it. What is to be copied stands outside of the border, and lines are not broken in it."""
    title = f"headrace {started.version} is ready"
    rows = [("Address", started.address), *model_rows(started.models), *_adapter_rows(started), ("Keys", started.keys)]
    if console.width < _NARROW:
        console.print(Text(title, style="bold green"))
        console.print(_grid(rows))
    else:
        width = min(console.width, _WIDEST)
        panel = Panel(_grid(rows), title=f"[bold green]{title}", title_align="left", border_style="green", width=width)
        console.print(panel)
    label_width = max(len(label) for label, _ in started.tries)
    for label, what in started.tries:
        line = Text.assemble(("  " if console.width >= _NARROW else "") + f"{label:{label_width}}  ", (what, "cyan"))
        console.print(line, soft_wrap=True)
    console.print()


def _grid(rows: Rows) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(label), Text(value))
    return grid


def _adapter_rows(started: Started) -> Rows:
    if started.adapters is None:
        return []
    first, rest = started.adapters[:_MAX_NAMES], len(started.adapters) - _MAX_NAMES
    names = ", ".join(first) + (f" and {rest:,} more" if rest > 0 else "")
    tuning = f"on: POST /v1/fine_tuning/jobs, or {program()} finetune" if started.is_finetuning else ""
    return [("Adapters", names or "none yet"), *([("Fine-tuning", tuning)] if tuning else [])]
