"""TrialProcess: a process that compiles one grammar at a time on trial, and is killed when it takes too long."""

import contextlib
import os
import select
import subprocess
import sys

import msgspec

from engine.client.lifetime import PARENT_VARIABLE
from engine.grammar.errors import TrialTimeoutError
from engine.grammar.trial import Trial, read_frame, write_frame
from engine.grammar.vocabulary import TokenizerSource

_COMMAND = (sys.executable, "-P", "-m", "engine.grammar.trial")  # -P: not from the current folder
_PATIENCE_S = 0.1  # a grammar that takes longer gives way to the engine's threads
_LOW_PRIORITY = 19


class TrialProcess:
    """`run` is for one thread. Started at the first trial, and again after one that was slow or died."""

    def __init__(self, source: TokenizerSource) -> None:
        self._source = msgspec.msgpack.encode(source)
        self._process: subprocess.Popen[bytes] | None = None  # that waits for a grammar
        self._running: subprocess.Popen[bytes] | None = None

    def run(self, grammar: str, timeout_s: float) -> Trial:
        """Raises TrialTimeoutError."""
        process = self._running = self._process or self._start()
        self._process = None  # until it has answered as it should
        try:
            return self._ask(process, grammar, timeout_s)
        except (BrokenPipeError, EOFError):
            return Trial(f"compiling it needs more memory or depth than is allowed ({_ending(process)})", 0.0)
        finally:
            self._running = None
            if self._process is None:
                _end(process)

    def _ask(self, process: subprocess.Popen[bytes], grammar: str, timeout_s: float) -> Trial:
        assert process.stdin is not None
        assert process.stdout is not None
        write_frame(process.stdin, grammar.encode())
        is_slow = not _is_readable(process, min(_PATIENCE_S, timeout_s))
        if is_slow:
            os.setpriority(os.PRIO_PROCESS, process.pid, _LOW_PRIORITY)
            if not _is_readable(process, timeout_s - _PATIENCE_S):
                raise TrialTimeoutError
        reply = read_frame(process.stdout)
        if reply is None:
            raise EOFError
        if not is_slow:  # its priority cannot be raised again
            self._process = process
        return msgspec.msgpack.decode(reply, type=Trial)

    def _start(self) -> subprocess.Popen[bytes]:
        """A process that has read the vocabulary; that is not a grammar's time."""
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        process = subprocess.Popen(_COMMAND, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        write_frame(process.stdin, self._source)
        read_frame(process.stdout)
        return process

    def kill(self) -> None:
        """End the trial that runs; for any thread."""
        if (running := self._running) is not None:
            running.kill()

    def close(self) -> None:
        """End the process; for any thread. A trial that runs fails."""
        self.kill()
        if self._process is not None:
            _end(self._process)
            self._process = None


def _is_readable(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether a reply, or the end of the process, comes in time."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], max(0.0, timeout_s))
    return bool(readable)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(BrokenPipeError):
        process.communicate()


def _ending(process: subprocess.Popen[bytes]) -> str:
    return f"status {process.wait()}"
