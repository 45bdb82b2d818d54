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
from engine.config import EngineConfig
from engine.protocol import AddPooling, FromEngine, ToEngine, decode_from_engine

logger = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 5.0
_STREAM_LIMIT_BYTES = 1 << 20


class EngineProcess:
    """A child process and the API process's end of the socket pair to it.

    The socket is read and written through separate descriptors: an asyncio transport whose write fails drops unread
    bytes, which may hold the last outputs of the engine and say which requests it had started.
    """

    def __init__(self, command: tuple[str, ...], config: EngineConfig) -> None:
        """Start the process. Its command gets the socket's file descriptor as its last argument."""
        self._socket, child_end = socket.socketpair()
        with child_end:
            self._process = subprocess.Popen(
                [*command, str(child_end.fileno())],
                pass_fds=(child_end.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is the API process's to handle
                env={**compute_environment(), "HEADRACE_ENGINE_CONFIG": msgspec.json.encode(config).decode()},
            )
        self.pid = self._process.pid
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
