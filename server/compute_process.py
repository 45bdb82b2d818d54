"""Commands that load torch run in a process of their own: the one that reads their options never does."""

import signal
import subprocess
import sys
from types import FrameType

from engine.compute_environment import compute_environment


def run_module(name: str, *arguments: str) -> int:
    """Run one of our modules as a program; returns its exit code.

    Ctrl-C, which the terminal sends it too, and SIGTERM, which is passed on, are waited out: it may have files to
    remove.
    """
    # -P: a folder named engine, where the user happens to stand, must not be taken for ours.
    process = subprocess.Popen([sys.executable, "-P", "-m", name, *arguments], env=compute_environment())

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, before)
