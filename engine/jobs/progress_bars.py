"""Bars that show how far a benchmark is."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def bars(*, redraws_itself: bool) -> Progress:
    """Bars on stderr, so that stdout holds the report alone; none where stderr is no terminal.

    redraws_itself: twice a second, by a thread; else whoever advances a bar calls `refresh`.
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
