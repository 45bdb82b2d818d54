"""run_module: runs a command that loads torch in a process of its own, since the process that parses options never
does."""

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

_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_module(name: str, *arguments: str) -> int:
    """Run one of headrace's modules as a program. Return its exit code, or 128 and the number of the signal that ended
    it.

    All signals that end the command are sent to the module as SIGTERM, and its end is awaited: it may have files to
    remove. The terminal's own signals do not reach it, since Python would answer Ctrl-C during an import with a long
    traceback.
    """
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: FrameType | None) -> None:
        received.append(number)
        if process is not None and len(received) == 1:
            process.terminate()

    before = {number: signal.getsignal(number) for number in _END_SIGNALS}
    handled = {number for number, handler in before.items() if handler is not signal.SIG_IGN}  # nohup ignores SIGHUP
    for number in handled:
        signal.signal(number, pass_on)
    # The process inherits blocked signals, for good; here they stay pending. Ignored signals would be lost here.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, handled & {signal.SIGINT, signal.SIGHUP})
    try:
        try:
            # -P: do not import a folder named engine in the current folder.
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
        sys.stderr.write(f"headrace: the compute process was ended by {_name(-code)}\n")
        return 128 - code
    return code


def run_job(name: str, job: object, unknown: Sequence[str]) -> int:
    """Run a module with `job` as JSON. unknown: arguments that the command's parser does not know.

    Raises OptionError for the first unknown argument, and for names that are not valid UTF-8.
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
