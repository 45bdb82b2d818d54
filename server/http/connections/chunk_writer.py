"""ChunkWriter: writes chunks of a streamed body straight to the connection."""

import sys

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

CHUNKS_STATE = "chunk_writer"  # in a scope's state; absent if another server than headrace's runs the application


class ChunkWriter:
    """The way of a response's chunks past the ASGI layers. These only pass on the chunks of a body, and streams have
    one for each token. The head and the end of the response go through the layers.

    num_bytes: body bytes written so far, which no layer has seen.
    """

    __slots__ = ("_cycle", "num_bytes")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self.num_bytes = 0

    def write(self, body: bytes) -> bool:
        """Write a chunk. Return False, and write nothing, if it must be sent by ASGI: before the head, if the body has
        no chunks or no more, if the client has left, or while it reads too slowly and the sender must wait."""
        cycle = self._cycle
        if not body or not cycle.chunked_encoding or cycle.flow.write_paused:
            return False
        if cycle.disconnected or cycle.response_complete:
            return False
        self.num_bytes += len(body)
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def begin_without_chunks(self) -> None:
        """Make the end of the connection the end of the body, for HTTP/1.0, which has no chunks. Call before a head
        without Content-Length is sent, and `end_without_chunks` before the last part of the body."""
        self._cycle.chunked_encoding = False
        self._cycle.expected_content_length = sys.maxsize

    def end_without_chunks(self, num_bytes: int) -> None:
        """num_bytes: of the last part."""
        self._cycle.expected_content_length = num_bytes
