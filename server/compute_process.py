"""Commands that load torch run in a process of their own: the one that reads their options never does."""

import signal
import subprocess
import sys
from types import FrameType

from engine.compute_environment import compute_environment

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_module(name: str, *arguments: str) -> int:
    """Run one of our modules as a program; returns its exit code, or 128 and the signal's number if it was ended.

    Whatever is to end the command, from a terminal too, reaches the module as SIGTERM, and it is waited for: it may
    have files to remove. The terminal's own signals it ignores, since Python would answer Ctrl-C in the middle of an
    import with pages of names.
    """
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        if process is not None:
            process.terminate()

    before = {number: signal.getsignal(number) for number in _ENDING}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # nohup ignores some
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # which the process inherits
    try:
        # -P: a folder named engine, where the user happens to stand, must not be taken for ours.
        process = subprocess.Popen([sys.executable, "-P", "-m", name, *arguments], env=compute_environment())
        for number in heeded:
            signal.signal(number, pass_on)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    was_ended = received and code in (-signal.SIGTERM, 128 + signal.SIGTERM)
    return 128 + received[0] if was_ended else code
