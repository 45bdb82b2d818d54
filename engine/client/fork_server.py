"""ForkServer: forks engine processes from a process that has imported their libraries; ForkedProcess: one of these."""

import contextlib
import ctypes
import logging
import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from engine.child_processes.environment import compute_environment
from engine.child_processes.fork_server import PREFIX, PROCESS_ID, ForkRequest
from engine.child_processes.frames import send_frame
from engine.child_processes.lifetime import describe_exit
from engine.config import Device, EngineConfig

logger = logging.getLogger(__name__)

_MODULES = ("engine.process", "engine.startup.build")
_COMMAND = (sys.executable, "-P", "-m", "engine.child_processes.fork_server")  # -P: not from the current folder
_IMPORT_TIMEOUT_S = 120.0  # on a busy machine, with a cold disk
_FORK_TIMEOUT_S = 10.0
_MAX_RESTARTS, _RESTART_WINDOW_S = 3, 600.0  # as for engines
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def can_fork(config: EngineConfig) -> bool:
    """Return whether an engine with this configuration may be forked: not if it may use a GPU, whose driver must never
    have been in use in a process that forks."""
    if config.device == Device.AUTO:
        return not any(map(os.path.exists, _GPU_FILES))
    return config.device == Device.CPU


class ForkServer:
    """Forks engine processes. Its creator must close it. Threads may share it.

    If its process is killed, a new one is started, and imports the modules again; `fork` returns None while there is
    none. It stays so if the process ends by itself, as where it cannot run, or is killed too often. Each end is logged.
    Processes that it has forked do not end with it.
    """

    def __init__(self, modules: Sequence[str] = _MODULES) -> None:
        """modules: to import before the first fork; forked processes run the first one's function `main`."""
        self._modules = modules
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None  # to the process; None if there is none
        self._has_imported = False
        self._watcher: threading.Thread | None = None
        self._is_closed = False

    def begin(self, configs: Iterable[EngineConfig]) -> None:
        """Start the process, which imports the modules, if one of these engines may be forked. Has no effect where the
        system lacks what forks need (a Linux of 2019 or later)."""
        if not any(map(can_fork, configs)) or not _is_supported():
            return
        if self._start():
            self._watcher = threading.Thread(target=self._watch, name="fork-server", daemon=True)
            self._watcher.start()

    @property
    def pid(self) -> int | None:
        """The id of the latest process that forks; None before `begin`."""
        return None if self._process is None else self._process.pid

    def fork(self, channel: socket.socket, variables: Mapping[str, str]) -> "ForkedProcess | None":
        """Fork a process with `channel`, and with this process's stdout and stderr. Return None if there is no process
        to fork from. Waits for its imports.

        variables: the environment. The process gets headrace's variables from it; the others are as they were when the
        imports began.
        """
        own = {name: value for name, value in variables.items() if name.startswith(PREFIX)}
        cpus = sorted(os.sched_getaffinity(os.getpid()))  # those of the main thread: an operator may have set them anew
        request = ForkRequest(self._modules[0], own, cpus, resource.getrlimit(resource.RLIMIT_NOFILE))
        with self._lock:
            if self._control is None:
                return None
            try:
                self._await_imports(self._control)
                pid = self._exchange(self._control, request, channel)
            except TimeoutError:
                logger.warning("the process from which engines are forked does not answer, and is killed")
                assert self._process is not None
                self._process.kill()
                return None
            except (OSError, EOFError):  # it has ended, which `_watch` sees too
                return None
        if not pid:
            logger.warning("the system has refused to fork a process: the engine's start imports its libraries itself")
            return None
        return ForkedProcess(pid)

    def close(self) -> None:
        """End the process. A `fork` that runs returns None."""
        self._is_closed = True
        if self._process is not None:
            self._process.kill()  # a thread that waits for it reads the end of its socket
        if self._watcher is not None:
            self._watcher.join()

    def _start(self) -> bool:
        """Start the process; return whether that was possible."""
        environment = compute_environment(is_logged=False)  # each engine that is started logs it
        environment["OPENBLAS_NUM_THREADS"] = "1"  # numpy's; it starts the others when it is imported
        control, theirs = socket.socketpair()
        send_frame(control, msgspec.json.encode(self._modules))
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*_COMMAND, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # a Ctrl-C in the terminal is this process's to handle
                    env=environment,
                )
        except OSError as error:
            control.close()
            _log_the_last_end(f"the system has refused to start it: {error}")
            return False
        self._control, self._has_imported = control, False
        return True

    def _watch(self) -> None:
        """Wait for the process's end, and start it again, until it is closed or of no use any longer.

        The thread that does this must live as long as the process that it has started: the system ends that with it.
        """
        restarts: deque[float] = deque(maxlen=_MAX_RESTARTS)
        while self._process is not None:
            returncode = self._process.wait()
            with self._lock:
                if self._control is not None:
                    self._control.close()
                    self._control = None
                if self._is_closed:
                    return
                end, now_s = f"it has ended with {describe_exit(returncode)}", time.monotonic()
                is_often = len(restarts) == _MAX_RESTARTS and now_s - restarts[0] < _RESTART_WINDOW_S
                if returncode >= 0 or is_often:  # by itself: its imports have failed, or have left threads
                    _log_the_last_end(end)
                    return
                restarts.append(now_s)
                logger.warning("a new process is started from which engines are forked, since %s", end)
                if not self._start():
                    return
            if self._is_closed:  # since the look above; `close` has killed the process before this one
                self._process.kill()

    def _await_imports(self, control: socket.socket) -> None:
        if not self._has_imported:
            control.settimeout(_IMPORT_TIMEOUT_S)
            if not control.recv(1):
                raise EOFError
            control.settimeout(_FORK_TIMEOUT_S)
            self._has_imported = True

    def _exchange(self, control: socket.socket, request: ForkRequest, channel: socket.socket) -> int:
        """Return the id of the new process, which is a child of this one; 0 if there is none."""
        with _subreaper():
            socket.send_fds(control, [b"\0"], [channel.fileno(), 1, 2])
            send_frame(control, msgspec.msgpack.encode(request))
            reply = control.recv(PROCESS_ID.size, socket.MSG_WAITALL)
        if len(reply) < PROCESS_ID.size:
            raise EOFError
        return int(PROCESS_ID.unpack(reply)[0])


def _log_the_last_end(reason: str) -> None:
    logger.warning(
        "the process from which engines are forked cannot be used any longer (%s): from now on an engine's start "
        "imports its libraries, which takes a second or two",
        reason,
    )


class ForkedProcess:
    """A child of this process that a ForkServer has forked, with those methods of subprocess.Popen that an engine's
    supervision needs. Threads may share it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._lock = threading.Lock()
        self._returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, or -N if signal N has ended it; None while it runs."""
        with self._lock:
            if self._returncode is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # this process ignores SIGCHLD: the status is lost, as with subprocess.Popen
                    pid, status = self.pid, 0
                if pid:
                    self._returncode = os.waitstatus_to_exitcode(status)
            return self._returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; return what `poll` returns then. Raises subprocess.TimeoutExpired."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # another thread has seen its end
                descriptor = os.pidfd_open(self.pid)
                try:
                    events = select.poll()
                    events.register(descriptor, select.POLLIN)
                    events.poll(None if timeout is None else timeout * 1000)
                finally:
                    os.close(descriptor)
        if (returncode := self.poll()) is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        return returncode


def _is_supported() -> bool:
    """Return whether this process can adopt and await a process that another one has forked."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open") or not Path("/proc/self/task").exists():
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
        with _subreaper():
            return True
    except OSError:  # an old kernel, or a filter of system calls
        return False


@contextlib.contextmanager
def _subreaper() -> Iterator[None]:
    """Make this process the parent of its descendants whose own parent ends within the context."""
    prctl, before = ctypes.CDLL(None, use_errno=True).prctl, ctypes.c_int()
    if prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before)) or prctl(_PR_SET_CHILD_SUBREAPER, 1):
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, before.value)
