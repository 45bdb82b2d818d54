"""Progress of a command that runs in the foreground: bars on a terminal, elsewhere one line a stage or nothing."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn


class ProgressBars:
    """A ProgressReport that draws a bar for each stage on `console`, from the first report until `close`."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(*_columns(name_width=16), console=console)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:  # noqa: ARG002 (the report's signature)
        self._progress.start()
        if stage not in self._tasks:
            for task in self._progress.tasks:
                if task.total is None:  # a stage without an end of its own
                    self._progress.update(task.id, total=1, completed=1)
            self._tasks[stage] = self._progress.add_task(stage, total=None)
        self._progress.update(self._tasks[stage], completed=done, total=total or None)

    def close(self) -> None:
        self._progress.stop()


class ProgressLines:
    """A ProgressReport that names each stage once on stderr."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:  # noqa: ARG002 (the report's signature)
        if stage != self._stage:
            self._stage = stage
            sys.stderr.write(f"{stage} ...\n")

    def close(self) -> None:
        """Nothing to do."""


def foreground_progress() -> ProgressBars | ProgressLines:
    console = Console(file=sys.stderr)
    return ProgressBars(console) if console.is_terminal and not console.is_dumb_terminal else ProgressLines()


def counting_bars(*, redraws_itself: bool) -> Progress:
    """Bars for a benchmark's runs, on stderr, so that stdout has the report alone; none where it is no terminal.

    redraws_itself: twice a second, by a thread; else whoever advances a bar calls `refresh`.
    """
    console = Console(file=sys.stderr)
    return Progress(
        *_columns(name_width=8),
        console=console,
        disable=not console.is_terminal,
        auto_refresh=redraws_itself,
        refresh_per_second=2,  # drawing takes time from what is measured on the same machine
    )


def _columns(*, name_width: int) -> tuple[ProgressColumn, ...]:
    name = TextColumn(f"{{task.description:<{name_width}}}")
    return (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
