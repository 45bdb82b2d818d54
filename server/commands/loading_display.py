"""What the operator sees while the engine loads: bars on a terminal, log lines elsewhere."""

import logging
import sys

from rich.console import Console

from engine.client.log_format import LogFormat
from engine.jobs.stage_bars import StageBars
from engine.jobs.stage_lines import StageLines
from engine.protocol import Loading

logger = logging.getLogger(__name__)


class LoadingDisplay:
    """Shows Loading messages: by `bars`, if there are any, until `close`; by log lines after that.

    The engine may be started again long after; the terminal belongs to the log by then.
    """

    def __init__(self, bars: StageBars | None) -> None:
        self._bars = bars
        self._lines = StageLines(lambda line: logger.info("%s", line))

    def show(self, loading: Loading) -> None:
        show = self._lines if self._bars is None else self._bars
        show(loading.stage, loading.done, loading.total, loading.unit)

    def close(self) -> None:
        """Leave the terminal as it was, with the bars above the cursor."""
        if self._bars is not None:
            self._bars.close()
            self._bars = None


def loading_display(log_format: LogFormat) -> LoadingDisplay:
    """With bars where stderr is a terminal that can draw them, and nobody asked for lines that programs read."""
    console = Console(file=sys.stderr)
    can_draw = console.is_terminal and not console.is_dumb_terminal
    return LoadingDisplay(StageBars(console) if can_draw and log_format is LogFormat.TEXT else None)
