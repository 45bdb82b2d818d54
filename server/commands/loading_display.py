"""What the operator sees while the engine loads: bars on a terminal, log lines elsewhere."""

import logging
import sys
import time

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from engine.client.log_format import LogFormat
from engine.protocol import Loading

logger = logging.getLogger(__name__)


class LoadingLog:
    """One line when a stage begins and one when it is complete."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._began_s = 0.0

    def show(self, loading: Loading) -> None:
        if loading.stage != self._stage:
            self._stage, self._began_s = loading.stage, time.monotonic()
            logger.info("%s ...", loading.stage)
        if 0 < loading.total <= loading.done:
            self._stage = None
            seconds = time.monotonic() - self._began_s
            logger.info("%s: %s in %.1f s", loading.stage, _amount(loading.total, loading.unit), seconds)

    def close(self) -> None:
        """Nothing to put back in order."""


class LoadingBars:
    """A bar for each stage, drawn on stderr from the first message until `close`; log lines after that."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<16}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}
        self._last: Loading | None = None
        self._after: LoadingLog | None = None

    def show(self, loading: Loading) -> None:
        if self._after is not None:
            self._after.show(loading)
            return
        self._progress.start()
        if self._last is not None and loading.stage != self._last.stage:
            self._complete(self._last)
        if loading.stage not in self._bars:
            self._bars[loading.stage] = self._progress.add_task(loading.stage, total=None, amount="")
        bar, total = self._bars[loading.stage], loading.total or None
        self._progress.update(bar, completed=loading.done, total=total, amount=_describe(loading))
        self._last = loading

    def close(self) -> None:
        """Leave the terminal as it was, with the bars above the cursor."""
        if self._after is None:
            if self._last is not None:
                self._complete(self._last)
            self._progress.stop()
            self._after = LoadingLog()

    def _complete(self, last: Loading) -> None:
        """Fill the bar of a stage whose size was never known: it is done when the next one begins."""
        if last.total == 0:
            self._progress.update(self._bars[last.stage], completed=1, total=1)


def loading_display(log_format: LogFormat) -> LoadingBars | LoadingLog:
    """Bars where stderr is a terminal that can draw them, and nobody asked for lines that programs read."""
    console = Console(file=sys.stderr)
    can_draw = console.is_terminal and not console.is_dumb_terminal
    return LoadingBars(console) if can_draw and log_format is LogFormat.TEXT else LoadingLog()


def _describe(loading: Loading) -> str:
    """Such as '12.3 MB of 100.0 MB', '3 of 272 tensors', or '' while nothing is known."""
    if loading.total == 0:
        return _amount(loading.done, loading.unit) if loading.done else ""
    done = decimal(loading.done) if loading.unit == "B" else f"{loading.done:,}"
    return f"{done} of {_amount(loading.total, loading.unit)}"


def _amount(count: int, unit: str) -> str:
    return decimal(count) if unit == "B" else f"{count:,} {unit}"
