"""How a process of ours ends when it is told to."""

import signal
import sys


def exit_on_sigterm() -> None:
    """From now on SIGTERM is SystemExit, so that what was begun is removed; a second one does not break that off."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
