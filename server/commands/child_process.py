"""Commands that load torch run in a process of their own: the one that reads their options never does."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

import msgspec

from engine.child_processes.environment import compute_environment
from engine.child_processes.lifetime import PARENT_VARIABLE
from engine.errors import OptionError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_module(name: str, *arguments: str) -> int:
    """Run one of our modules as a program; returns its exit code, or 128 and the number of the signal that ended it.

    Whatever is to end the command, from a terminal too, reaches the module as SIGTERM, and it is waited for: it may
    have files to remove. The terminal's own signals are kept from it, since Python would answer Ctrl-C in the middle of
    an import with pages of names.
    """
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        if process is not None and len(received) == 1:
            process.terminate()

    before = {number: signal.getsignal(number) for number in _ENDING}
    heeded = {number for number, handler in before.items() if handler is not signal.SIG_IGN}  # nohup ignores some
    for number in heeded:
        signal.signal(number, pass_on)
    # The process inherits what is blocked, for good; here it waits. Were it ignored instead, it would be lost here.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, heeded & {signal.SIGINT, signal.SIGHUP})
    try:
        try:
            # -P: a folder named engine, where the user happens to stand, must not be taken for ours.
            environment = {**compute_environment(), PARENT_VARIABLE: str(os.getpid())}
            process = subprocess.Popen([sys.executable, "-P", "-m", name, *arguments], env=environment)
            if received:
                process.terminate()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return 128 + received[0]
    if code < 0:
        sys.stderr.write(f"headrace: the process that computes was ended by {_name(-code)}\n")
        return 128 - code
    return code


def run_job(name: str, job: object, unknown: Sequence[str]) -> int:
    """run_module with `job` as JSON. unknown: the arguments that the command's grammar does not have.

    Raises OptionError for the first of these, and for names that are not valid UTF-8.
    """
    if unknown:
        kind = "unknown option" if unknown[0].startswith("-") else "unexpected argument"
        raise OptionError(f"{kind} {unknown[0]}")
    try:
        encoded = msgspec.json.encode(job).decode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{error.object!a} is not valid UTF-8; give a name that is") from error
    return run_module(name, encoded)


def _name(number: int) -> str:
    name = signal.Signals(number).name
    return f"{name} (out of memory?)" if number == signal.SIGKILL else name
