"""A program for a ForkServer: it describes itself on its socket, and then ends as a byte says."""

import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from engine.child_processes.fork_server import num_threads
from engine.child_processes.frames import encode_frame
from engine.child_processes.lifetime import end_with_parent


class Description(msgspec.Struct):
    pid: int
    parent: int
    session: int
    num_threads: int
    cpus: list[int]
    open_files: list[str]  # targets of its descriptors above stderr
    variables: dict[str, str]
    stderr: str
    has_cuda: bool  # whether torch has started CUDA


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    variables = dict(os.environ)
    end_with_parent(signal.SIGKILL)
    torch = sys.modules.get("torch")
    files = {int(each.name): os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}
    description = Description(
        os.getpid(),
        os.getppid(),
        os.getsid(0),
        num_threads(),
        sorted(os.sched_getaffinity(0)),
        [target for number, target in sorted(files.items()) if number > 2],
        variables,
        files[2],
        torch is not None and torch.cuda.is_initialized(),
    )
    sock.sendall(encode_frame(description))
    code = sock.recv(1)
    sys.exit(code[0] if code else 0)
