"""TrialProcesses: processes that compile one grammar at a time on trial, and can be killed."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import abc

import msgspec

from engine.child_processes.frames import receive_frame, send_frame
from engine.child_processes.lifetime import PARENT_VARIABLE
from engine.grammar.trial import Trial
from engine.grammar.trial_parent import PROCESS_ID
from engine.grammar.vocabulary import TokenizerSource

_COMMAND = (sys.executable, "-P", "-m", "engine.grammar.trial_parent")  # -P: not from the current folder
_LOW_PRIORITY = 19


class TrialProcess:
    """A child process that compiles one grammar at a time. Only `kill` may be called from other threads."""

    def __init__(self, process_id: int, channel: socket.socket, on_ended: abc.Callable[[int], None]) -> None:
        """on_ended: called with the process id by `end`; the system may reuse the id afterwards."""
        self._process_id = process_id
        self._channel = channel
        self._on_ended = on_ended
        self._lock = threading.Lock()
        self._has_ended = False

    @property
    def is_alive(self) -> bool:
        """Whether the process lives. Only valid while it is idle: then its socket becomes readable only on exit."""
        return not _is_readable(self._channel, 0)

    def start(self, grammar: str) -> None:
        with contextlib.suppress(ConnectionError):  # `reply` finds that it has died
            send_frame(self._channel, grammar.encode())

    def reply(self, timeout_s: float) -> Trial | None:
        """Wait for the trial's outcome; return None on timeout. Raises EOFError if the process has died."""
        if not _is_readable(self._channel, timeout_s):
            return None
        try:
            reply = receive_frame(self._channel)
        except ConnectionError:
            reply = None
        if reply is None:
            raise EOFError
        return msgspec.msgpack.decode(reply, type=Trial)

    def lower_priority(self) -> None:
        """Lower the process's CPU priority below the engine's, permanently."""
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self._process_id, _LOW_PRIORITY)

    def kill(self) -> None:
        """Kill the process; a waiting `reply` raises EOFError. May be called from any thread."""
        with self._lock, contextlib.suppress(ProcessLookupError):
            if not self._has_ended:
                os.kill(self._process_id, signal.SIGKILL)

    def end(self) -> None:
        self.kill()
        with self._lock:
            if self._has_ended:
                return
            self._has_ended = True
        self._channel.close()
        self._on_ended(self._process_id)


class TrialProcesses:
    """A thread-safe pool of trial processes. Their parent process starts on first use, and again if it has died."""

    def __init__(self, source: TokenizerSource) -> None:
        self._source = msgspec.msgpack.encode(source)
        self._parent: _Parent | None = None
        self._idle: list[TrialProcess] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def start(self, grammar: str) -> TrialProcess:
        """Try the grammar in an idle or new process. The caller must `end` the process or `put_back` it."""
        with self._lock:
            process = self._idle_one() or self._new()
        process.start(grammar)
        return process

    def put_back(self, process: TrialProcess) -> None:
        """Return a process to the pool after its trial has replied."""
        with self._lock:
            if not self._is_closed:
                self._idle.append(process)
                return
        process.end()

    def close(self) -> None:
        """Kill all processes. Running trials fail."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            if self._parent is not None:
                self._parent.kill()
        for process in idle:
            process.end()

    def _idle_one(self) -> TrialProcess | None:
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                return process
            process.end()
        return None

    def _new(self) -> TrialProcess:
        if self._is_closed:
            raise RuntimeError("the engine ends")
        if self._parent is None or self._parent.has_died:
            self._parent = _Parent(self._source)
        return self._parent.fork()


class _Parent:
    """The process that loads the vocabulary and forks trial processes. See `engine.grammar.trial_parent`."""

    def __init__(self, source: bytes) -> None:
        self._control, theirs = socket.socketpair()
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        with theirs:
            self._process = subprocess.Popen(
                _COMMAND, env=environment, stdin=theirs.fileno(), stdout=subprocess.DEVNULL
            )
        self._lock = threading.Lock()
        send_frame(self._control, source)
        if receive_frame(self._control) is None:
            raise EOFError("the process that tries grammars did not start")

    @property
    def has_died(self) -> bool:
        return self._process.poll() is not None

    def fork(self) -> TrialProcess:
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            socket.send_fds(self._control, [PROCESS_ID.pack(0)], [theirs.fileno()])
            reply = self._control.recv(PROCESS_ID.size, socket.MSG_WAITALL)
        if len(reply) < PROCESS_ID.size:
            raise EOFError("the process that starts others has died")
        (process_id,) = PROCESS_ID.unpack(reply)
        return TrialProcess(process_id, ours, self._forget)

    def kill(self) -> None:
        """Kill the parent, and with it all processes that it forked."""
        self._process.kill()
        self._process.wait()

    def _forget(self, process_id: int) -> None:
        with self._lock, contextlib.suppress(ConnectionError):  # its parent has died before it
            self._control.send(PROCESS_ID.pack(process_id))


def _is_readable(channel: socket.socket, timeout_s: float) -> bool:
    """Wait until the socket has a reply or is closed; return False on timeout."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))
