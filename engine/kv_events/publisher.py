"""KVEventPublisher: sends events about cached blocks to subscribers over ZeroMQ, and again to those that missed some.

    PUB     [topic, number, batch]                        every batch, to all subscribers
    ROUTER  [..., number] -> [..., topic, number, batch]  the kept batches from a number on, one message each,
                             [..., b"", -1, b""]          and then the end

A number has 8 bytes, big-endian, and counts batches from 0 on. A batch is an EventBatch in MessagePack.
"""

import contextlib
import logging
import os
import threading
import time
from collections import deque

import msgspec
import zmq

from engine.errors import OptionError
from engine.protocol.kv_events import AllBlocksCleared, EventBatch, KVEvent

logger = logging.getLogger(__name__)

_MAX_QUEUED = 1_000  # batches between the engine and the thread
_MAX_KEPT, _MAX_KEPT_BYTES = 10_000, 64 << 20  # batches for replay
_MAX_BEHIND = 1_000  # batches that a subscriber has not taken yet; ZeroMQ drops what is more, for that one alone
_CLOSE_S = 1.0
_NUMBER_BYTES = 8
_END = (-1).to_bytes(_NUMBER_BYTES, "big", signed=True)


class KVEventPublisher:
    """Publishes batches of events from a thread of its own, so that neither a subscriber nor the network delays a step.

    Any thread may call `publish`. When the queue to the thread is full, a batch is dropped and counted; the next one
    then begins with AllBlocksCleared, so that subscribers know too few blocks and never blocks that are gone.
    Invariant: the thread alone uses the sockets after they are bound.
    """

    def __init__(
        self,
        address: str,
        *,
        replay_address: str | None = None,
        topic: str = "",
        max_queued: int = _MAX_QUEUED,
        max_kept: int = _MAX_KEPT,
    ) -> None:
        """Bind the addresses (tcp://HOST:PORT), and publish AllBlocksCleared: an engine starts with an empty cache.

        Raises OptionError if an address cannot be bound.
        """
        self._topic = topic.encode()
        self._max_queued = max_queued
        self._lock = threading.Lock()
        self._queue: list[tuple[float, list[KVEvent]]] = []
        self._num_dropped = 0
        self._has_dropped = False  # since the last batch that was queued
        self._is_closed = False
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=max_kept)
        self._kept_bytes = 0
        self._number = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._context = zmq.Context()
        with contextlib.ExitStack() as on_error:
            on_error.callback(self._context.destroy, linger=0)
            self._events = self._bind(zmq.PUB, "--kv-events", address, _MAX_BEHIND)
            self._replays = None
            if replay_address is not None:  # twice as many, since ZeroMQ notices late what a client has taken
                self._replays = self._bind(zmq.ROUTER, "--kv-events-replay", replay_address, 2 * max_kept + 4)
            on_error.pop_all()
        self.address = self._events.getsockopt_string(zmq.LAST_ENDPOINT)
        self.replay_address = None if self._replays is None else self._replays.getsockopt_string(zmq.LAST_ENDPOINT)
        self._wakes, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self.publish([AllBlocksCleared()])
        self._thread = threading.Thread(target=self._run, name="kv-events", daemon=True)
        self._thread.start()

    def _bind(self, kind: int, option: str, address: str, most_messages: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, most_messages)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, int("[" in address))
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise OptionError(
                f"{option} {address} cannot be bound ({zmq.strerror(error.errno or 0)}); give an address of this "
                "machine and a free port, another one for each model and server"
            ) from error
        return socket

    def publish(self, events: list[KVEvent]) -> None:
        """Queue the events of a step, in order. The lists in them must not change any more."""
        if not events:
            return
        with self._lock:
            if len(self._queue) >= self._max_queued:
                is_first = not self._has_dropped
                self._num_dropped += len(events)
                self._has_dropped = True
            else:
                is_first = False
                self._queue.append((time.time(), [AllBlocksCleared(), *events] if self._has_dropped else events))
                self._has_dropped = False
        if is_first:
            logger.warning("KV events are dropped: %d batches wait to be sent", self._max_queued)
        with contextlib.suppress(BlockingIOError):  # then the thread has not read earlier ones, and wakes up anyway
            os.write(self._wake, b"\0")

    def take_num_dropped(self) -> int:
        """Return how many events were dropped since the last call."""
        with self._lock:
            num_dropped, self._num_dropped = self._num_dropped, 0
        return num_dropped

    def close(self) -> None:
        """Send what is queued, for a second at most, and close the sockets. Nothing may be published afterwards."""
        with self._lock:
            self._is_closed = True
        os.write(self._wake, b"\0")
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            os.close(self._wakes)
            os.close(self._wake)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wakes, zmq.POLLIN)
        if self._replays is not None:
            poller.register(self._replays, zmq.POLLIN)
        is_closed = False
        while not is_closed:
            ready = dict(poller.poll())
            if self._wakes in ready:
                os.read(self._wakes, 4096)
            with self._lock:
                is_closed, batches, self._queue = self._is_closed, self._queue, []
            try:
                for ts, events in batches:
                    self._send(self._encoder.encode(EventBatch(ts, events)))
                if self._replays is not None and self._replays in ready:
                    self._replay(self._replays)
            except Exception:  # a thread's boundary: later batches are sent
                logger.exception("KV events could not be sent")
        self._context.destroy(linger=0)

    def _send(self, payload: bytes) -> None:
        number = self._number.to_bytes(_NUMBER_BYTES, "big")
        self._number += 1
        if len(self._kept) == self._kept.maxlen:
            self._forget_oldest()
        self._kept.append((number, payload))
        self._kept_bytes += len(payload)
        while self._kept_bytes > _MAX_KEPT_BYTES:
            self._forget_oldest()
        self._events.send_multipart([self._topic, number, payload])

    def _forget_oldest(self) -> None:
        self._kept_bytes -= len(self._kept.popleft()[1])

    def _replay(self, socket: "zmq.Socket[bytes]") -> None:
        """Answer one request: the client's identity, an empty frame if its socket sends one, and a number."""
        *envelope, start = socket.recv_multipart()
        if len(start) != _NUMBER_BYTES:
            logger.warning("a request for KV events has %d bytes in place of a number of %d", len(start), _NUMBER_BYTES)
            return
        for number, payload in self._kept:
            if number >= start:
                socket.send_multipart([*envelope, self._topic, number, payload], zmq.NOBLOCK)
        socket.send_multipart([*envelope, b"", _END, b""], zmq.NOBLOCK)
