"""`python -m engine.child_processes.fork_server FD`: imports modules once, and forks processes that run one of them.

A fork takes some 10 ms and shares the memory of the imported modules, where a new process would import torch for more
than a second. FD is a socket. The first frame on it is a list of names of modules in JSON; one byte in reply says that
they are imported. Every further request is a byte with three attached files (the new process's socket, stdout and
stderr) and a frame with a ForkRequest in msgpack; the reply is the new process's id, or 0 if there is none.

The new process is not this one's child but its grandchild: the process in between ends, and the system gives its child
to the process that has started this one, which is a "subreaper" (prctl(2)) meanwhile. So that process gets its exit
status, and its end is independent of this process's.

Only the thread that forks lives on in the new process, and a lock that another one held would stay locked there. So
this process has one thread, and ends if an imported module starts another. Nothing may use CUDA here either: its state
does not survive a fork.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import resource
import signal
import socket
import struct
import sys

import msgspec

from engine.child_processes.frames import receive_frame
from engine.child_processes.lifetime import end_with_parent

PROCESS_ID = struct.Struct("<I")
PREFIX = "HEADRACE_"  # of the variables that a process has of its own; it shares the others with this process
NUM_FILES = 3
_ARGUMENTS_START = 45  # index of arg_start in the fields of /proc/PID/stat that follow the command's name


class ForkRequest(msgspec.Struct, frozen=True):
    """A process to fork, and its own settings: those that a process inherits from the one that starts it."""

    module: str  # whose function `main` it runs, with the socket's descriptor as the last element of sys.argv
    variables: dict[str, str]  # all with PREFIX
    cpus: list[int]  # that it may run on
    open_files: tuple[int, int]  # RLIMIT_NOFILE: soft and hard


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # as in the processes that it forks: its parent decides when to stop
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    control = socket.socket(fileno=int(sys.argv[1]))
    names = receive_frame(control)
    if names is None:
        return
    gc.disable()  # until a forked process enables it: what imports make stays
    for name in msgspec.json.decode(names, type=list[str]):
        importlib.import_module(name)
    gc.freeze()
    if (count := num_threads()) != 1:
        sys.exit(f"headrace: {count} threads run after the imports, and a process with more than one must not fork")
    control.sendall(b"\0")
    request = _serve(control)
    if request is not None:  # this is a forked process
        importlib.import_module(request.module).main()


def num_threads() -> int:
    """Return the number of this process's threads, native ones included."""
    return len(os.listdir("/proc/self/task"))


def _serve(control: socket.socket) -> ForkRequest | None:
    """Fork processes until the parent closes the socket; return None then, and the ForkRequest in a forked process."""
    while True:
        try:
            message, files, _, _ = socket.recv_fds(control, 1, NUM_FILES)
            frame = receive_frame(control) if message else None
        except ConnectionError:
            return None
        if frame is None:
            return None
        request = msgspec.msgpack.decode(frame, type=ForkRequest)
        process_id = _fork()
        if process_id is None:
            control.close()
            _settle(request, files)
            return request
        for file in files:
            os.close(file)
        control.sendall(PROCESS_ID.pack(process_id))


def _fork() -> int | None:
    """Fork a process that is the child of this one's parent. Return its id (0 if that failed), and None within it."""
    parent = os.getppid()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            between = os.fork()
        except OSError:
            return 0
        if not between:
            _fork_again()
            ours.close()
            has_parent = theirs.recv(1)  # sent when the process in between has ended
            if not has_parent or os.getppid() != parent:
                os._exit(1)
            os.setsid()  # as its parent kills the session
            theirs.sendall(PROCESS_ID.pack(os.getpid()))
            return None
        theirs.close()
        os.waitpid(between, 0)
        try:
            ours.sendall(b"\0")
            reply = ours.recv(PROCESS_ID.size, socket.MSG_WAITALL)
        except ConnectionError:
            return 0
    return PROCESS_ID.unpack(reply)[0] if len(reply) == PROCESS_ID.size else 0


def _fork_again() -> None:
    """Return in a child of this process, which ends."""
    try:
        process_id = os.fork()
    except OSError:
        os._exit(1)
    if process_id:
        os._exit(0)


def _settle(request: ForkRequest, files: list[int]) -> None:
    """Give this process its own settings, files and command line."""
    channel, stdout, stderr = files
    for target, source in ((1, stdout), (2, stderr)):
        os.dup2(source, target)
        os.close(source)
    with contextlib.suppress(OSError, ValueError):  # an operator may have set the parent's anew, beyond this one's
        os.sched_setaffinity(0, request.cpus)
        resource.setrlimit(resource.RLIMIT_NOFILE, request.open_files)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    os.environ.update(request.variables)
    sys.argv = [str(sys.modules[request.module].__file__), str(channel)]
    _set_command_line([sys.executable, "-P", "-m", request.module, str(channel)])


def _set_command_line(arguments: list[str]) -> None:
    """Replace the command line that /proc and `ps` show; it is cut to the length of the present one."""
    with open("/proc/self/stat") as file:
        start, end = map(int, file.read().rpartition(")")[2].split()[_ARGUMENTS_START : _ARGUMENTS_START + 2])
    text = "\0".join(arguments).encode()[: end - start - 1]
    if start:  # 0 where the system hides it
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    main()
