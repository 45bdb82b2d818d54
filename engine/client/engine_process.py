"""EngineProcess: one run of the engine process, from its start to its exit status."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable

import msgspec

from engine.child_processes.environment import compute_environment
from engine.child_processes.frames import encode_frame, read_frame
from engine.client.fork_server import ForkedProcess, ForkServer
from engine.config import EngineConfig
from engine.protocol import AddPooling, EngineInfo, FromEngine, ToEngine, decode_from_engine

logger = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 5.0
_STREAM_LIMIT_BYTES = 1 << 20


class EngineProcess:
    """A child process and the API process's end of the socket pair to it.

    The socket is read and written through separate descriptors: an asyncio transport whose write fails drops unread
    bytes, which may hold the last outputs of the engine and say which requests it had started.
    """

    def __init__(self, process: "subprocess.Popen[bytes] | ForkedProcess", sock: socket.socket) -> None:
        """sock: this process's end, which the EngineProcess closes."""
        self._process = process
        self._socket = sock
        self.pid = process.pid
        self._outbox: asyncio.Queue[bytes | AddPooling] | None = None

    async def run(self, on_message: Callable[[FromEngine], None]) -> int:
        """Call `on_message` with the engine's messages until it closes the socket; return its exit status."""
        self._outbox = asyncio.Queue()
        sender = asyncio.create_task(send_all(self._outbox, self._socket.dup()), name="engine-sender")
        reader, writer = await asyncio.open_connection(sock=self._socket, limit=_STREAM_LIMIT_BYTES)
        try:
            while (message := await _receive(reader)) is not None:
                on_message(message)
        finally:
            self._outbox = None
            sender.cancel()
            writer.close()
            returncode = await asyncio.to_thread(self._reap)
        return returncode

    def send(self, message: ToEngine) -> None:
        """Send a message, or drop it if the process has ended.

        AddPooling messages are encoded only when they are sent: one request may queue very many of them.
        """
        if self._outbox is not None:
            self._outbox.put_nowait(message if isinstance(message, AddPooling) else encode_frame(message))

    def kill(self) -> None:
        """Kill the engine and all processes in its session, such as a compiler that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def kill_and_wait(self) -> None:
        if self._process.poll() is None:
            self.kill()
            await asyncio.to_thread(self._process.wait)

    def _reap(self) -> int:
        try:
            return self._process.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # its socket is closed, but it still runs
            self.kill()
            return self._process.wait()


async def start_engine(
    command: tuple[str, ...],
    config: EngineConfig,
    fork_server: ForkServer | None,
    last: EngineInfo | None = None,
) -> EngineProcess:
    """Start an engine process: fork it if there is a fork server, else run the command, which gets the socket's file
    descriptor as its last argument. If this is cancelled, the process ends.

    last: description of the engine before it, if that was ready: its step times are not measured again.
    """
    variables = {**compute_environment(), "HEADRACE_ENGINE_CONFIG": msgspec.json.encode(config).decode()}
    if last is not None and last.decode_step_s:
        times = (last.prefill_seconds_per_token, last.decode_step_s)
        variables["HEADRACE_STEP_TIMES"] = msgspec.json.encode(times).decode()
    if fork_server is not None and (forked := await _fork(fork_server, variables)) is not None:
        return forked
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [*command, str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is the API process's to handle
            env=variables,
        )
    return EngineProcess(process, ours)


async def _fork(fork_server: ForkServer, variables: dict[str, str]) -> EngineProcess | None:
    """Fork an engine in a thread, since the imports may take a while. Return None if the fork server cannot."""
    ours, theirs = socket.socketpair()

    def fork() -> ForkedProcess | None:
        with theirs:
            return fork_server.fork(theirs, variables)

    forking = asyncio.ensure_future(asyncio.to_thread(fork))
    process = None
    try:
        process = await asyncio.shield(forking)
    except asyncio.CancelledError:
        forking.add_done_callback(_discard)
        raise
    finally:
        if process is None:
            ours.close()  # which also ends an engine that was forked too late
    return None if process is None else EngineProcess(process, ours)


def _discard(forking: "asyncio.Future[ForkedProcess | None]") -> None:
    """Kill and reap the process, if there is one."""
    if not forking.cancelled() and forking.exception() is None and (process := forking.result()) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _receive(reader: asyncio.StreamReader) -> FromEngine | None:
    """Return the next message from the engine; None if the process is gone, or sends invalid bytes and must be
    killed."""
    try:
        frame = await read_frame(reader)
        return None if frame is None else decode_from_engine(frame)
    except msgspec.DecodeError as error:
        logger.error("the engine's messages end: %s", error)
        return None


async def send_all(outbox: asyncio.Queue[bytes | AddPooling], sock: socket.socket) -> None:
    """Send frames and AddPooling messages in order until the engine closes the socket, which the task that reads the
    socket reports. Closes the socket. The event loop serves other tasks between two AddPooling messages."""
    loop = asyncio.get_running_loop()
    with sock, contextlib.suppress(ConnectionError):
        sock.setblocking(False)
        while True:
            item = await outbox.get()
            if isinstance(item, bytes):
                await loop.sock_sendall(sock, item)
                continue
            await loop.sock_sendall(sock, encode_frame(item))
            await asyncio.sleep(0)
