"""Child processes of commands. Code that needs torch runs in one (`run_module`), since commands never import it."""

import signal
import socket
import subprocess
import sys
from types import FrameType

import msgspec

from engine.child_processes.environment import compute_environment
from engine.child_processes.lifetime import describe_exit
from engine.errors import OptionError

RESUMES = "stopped; the same command resumes here"
_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_module(name: str, *arguments: str, when_stopped: str = "stopped") -> int:
    """Run one of headrace's modules as a program. Return its exit code, or 128 plus the signal that ended it.
    when_stopped: printed if such a signal ended it.

    Signals that end the command are forwarded to the module as SIGTERM, and it may clean up before it ends. Ctrl-C does
    not reach it directly, since an interrupted import would print a long traceback.
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
            process = subprocess.Popen([sys.executable, "-P", "-m", name, *arguments], env=compute_environment())
            if received:
                process.terminate()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        sys.stderr.write(f"headrace: {when_stopped}\n")
        return 128 + received[0]
    if code < 0:
        sys.stderr.write(f"headrace: the compute process was ended by {describe_exit(code)}\n")
        return 128 - code
    return code


def run_job(name: str, job: object, *, when_stopped: str = "stopped") -> int:
    """Run a module with `job` as a JSON argument; see `run_module`. Raises OptionError for invalid UTF-8."""
    try:
        encoded = msgspec.json.encode(job).decode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{error.object!a} is not valid UTF-8; give a name that is") from error
    return run_module(name, encoded, when_stopped=when_stopped)


def end_process(process: subprocess.Popen[bytes], number: signal.Signals, timeout_s: float) -> None:
    """Send the signal to a process and wait for its end. Kill it if it does not end in time."""
    process.send_signal(number)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
