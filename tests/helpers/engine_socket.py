"""The engine's end of the socket, for tests that stand in for the engine process."""

import socket

from engine.child_processes.frames import receive_frame
from engine.protocol import ToEngine, decode_to_engine


def receive_to_engine(sock: socket.socket) -> ToEngine | None:
    """Return the next message from the API process, blocking; None once it has closed its end."""
    frame = receive_frame(sock)
    return None if frame is None else decode_to_engine(frame)
