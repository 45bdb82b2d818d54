"""TransportOver: base of the transports between a connection and its protocol."""

import asyncio


class TransportOver(asyncio.Transport):
    """A transport whose flow control is that of the transport below."""

    def __init__(self, below: asyncio.Transport) -> None:
        super().__init__()
        self._below = below

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def is_reading(self) -> bool:
        return self._below.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()
