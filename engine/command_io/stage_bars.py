"""StageBars: a bar for each stage of long work, fitted to the terminal's width. No torch here."""

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from engine.command_io.stage_text import cut_middle, described, share, speed

_WIDE = 80  # columns of a terminal that has room for everything
_MEDIUM = 56


class StageBars:
    """A ProgressReport that draws on `console` from the first report until `close`.

    A stage ends when the next begins. Stages that alternate (download, look up, download) continue where they were.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(*_columns(console.width), console=console, expand=console.width < _WIDE)
        self._bars: dict[str, TaskID] = {}
        self._last = ""

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        self._progress.start()
        if stage != self._last:
            self._end_last()
            self._last = stage
        if stage not in self._bars:
            # A download starts with the bytes that it has already, which say nothing of its speed.
            bar = self._progress.add_task(stage, total=None, completed=done, amount="", share="", is_bytes=unit == "B")
            self._bars[stage] = bar
        self._progress.update(
            self._bars[stage],
            completed=done,
            total=total or None,
            amount=described(done, total, unit),
            share=share(done, total, unit),
        )

    def say(self, line: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was, with the bars above the cursor."""
        self._end_last()
        self._progress.stop()

    def _end_last(self) -> None:
        """Fill the last stage's bar if its size was never known."""
        for task in self._progress.tasks:
            if task.description == self._last and task.total is None:
                self._progress.update(task.id, completed=1, total=1)


def _columns(width: int) -> tuple[ProgressColumn, ...]:
    spinner = SpinnerColumn(finished_text="[green]✓", table_column=Column(width=1))
    elapsed = TimeElapsedColumn(table_column=Column(width=7))
    share_field = _field("share", Column(min_width=4, justify="right", no_wrap=True))
    if width < _MEDIUM:
        return (spinner, _name(Column(ratio=1)), share_field, elapsed)
    if width < _WIDE:
        bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
        return (spinner, _name(Column(width=22)), bar, share_field, elapsed)
    spare = width - _WIDE
    name = _name(Column(width=20 + min(20, spare // 2)))
    bar = BarColumn(bar_width=12 + min(20, spare // 4))
    return (spinner, name, bar, _field("amount", Column(min_width=20, no_wrap=True)), _Pace())


def _name(column: Column) -> ProgressColumn:
    column.no_wrap = True
    return _Name(column)


def _field(name: str, column: Column) -> TextColumn:
    return TextColumn(f"{{task.fields[{name}]}}", markup=False, table_column=column)


class _Name(ProgressColumn):
    """A column with the stage's name, shortened in the middle: names of files differ at their ends."""

    def render(self, task: Task) -> RenderableType:
        return _Cut(task.description)


class _Cut:
    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(options.max_width, 1), min(options.max_width, cell_len(self._text)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(cut_middle(self._text, options.max_width), no_wrap=True, end="")


class _Pace(TimeElapsedColumn):
    """A column with the time that a stage takes; for a running download, bytes per second and the time left."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.finished or not task.speed or not task.fields["is_bytes"]:
            return super().render(task)
        return Text(speed(task.speed, task.time_remaining), style="cyan")
