"""Progress of a command in the foreground: bars on a terminal, elsewhere lines or nothing."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from engine.command_io.stage_bars import StageBars
from engine.command_io.stage_lines import StageLines


def foreground_progress() -> StageBars | StageLines:
    """Return the progress report of a command in the foreground, on stderr: bars on a terminal, else lines."""
    console = Console(file=sys.stderr)
    return StageBars(console) if console.is_terminal and not console.is_dumb_terminal else stderr_lines()


def stderr_lines() -> StageLines:
    return StageLines(lambda line: sys.stderr.write(f"{line}\n"))


def counting_bars(*, redraws_itself: bool) -> Progress:
    """Return bars for a benchmark's runs, on stderr if that is a terminal, so that stdout has the report alone.

    redraws_itself: whether a thread redraws the bars twice a second; else the caller must call `refresh`.
    """
    console = Console(file=sys.stderr)
    return Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        auto_refresh=redraws_itself,
        refresh_per_second=2,  # drawing takes time from what is measured on the same machine
    )
