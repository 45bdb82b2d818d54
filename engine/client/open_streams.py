"""OpenStreams: outputs on their way from the engine to the streams of their requests."""

from collections.abc import Callable

from engine.client.output_stream import OutputStream
from engine.errors import EngineDied
from engine.protocol import AbortReason, RequestOutput


class OpenStreams:
    """Streams by request id. Invariant: none has had its terminal output."""

    def __init__(self, *, on_discarded: Callable[[int], None]) -> None:
        """on_discarded: see OutputStream."""
        self._streams: dict[str, OutputStream] = {}
        self._on_discarded = on_discarded

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._streams

    def open(self, request_id: str, *, on_abort: Callable[[AbortReason], None]) -> OutputStream:
        stream = OutputStream(on_abort=on_abort, on_discarded=self._on_discarded)
        self._streams[request_id] = stream
        return stream

    def deliver(self, output: RequestOutput) -> None:
        """Put an output into its request's stream, which its terminal output closes."""
        stream = self._streams.get(output.id)
        if stream is None:
            raise AssertionError(f"output for {output.id}, which is not open")
        if output.finish_reason is not None:
            del self._streams[output.id]
        stream.put(output)

    def fail_all(self, make_error: Callable[[], EngineDied]) -> None:
        """Raise an error to the reader of each open stream."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(make_error())
