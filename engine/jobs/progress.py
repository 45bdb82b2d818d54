"""Progress of a command that runs in the foreground: bars on a terminal, one line a stage elsewhere."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """A ProgressReport that draws a bar for each stage on `console`, from the first report until `close`."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console)
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


class Lines:
    """A ProgressReport that names each stage once on stderr."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:  # noqa: ARG002 (the report's signature)
        if stage != self._stage:
            self._stage = stage
            sys.stderr.write(f"{stage} ...\n")

    def close(self) -> None:
        """Nothing to put back in order."""


def foreground_progress() -> Bars | Lines:
    console = Console(file=sys.stderr)
    return Bars(console) if console.is_terminal and not console.is_dumb_terminal else Lines()
