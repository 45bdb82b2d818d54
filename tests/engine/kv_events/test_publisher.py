"""KVEventPublisher: subscribers get every batch in order, those that missed some get them again, and none delays it."""

import threading
from collections.abc import Iterator

import pytest

zmq = pytest.importorskip("zmq", reason="pyzmq is not installed (pip install 'headrace[events]')")

from engine.errors import OptionError  # noqa: E402
from engine.kv_events.publisher import KVEventPublisher  # noqa: E402
from engine.protocol.kv_events import DISK, POOL, BlockRemoved, BlockStored, KVEvent  # noqa: E402
from tests.helpers.kv_subscriber import KVSubscriber  # noqa: E402

pytestmark = pytest.mark.fast

ANY_PORT = "tcp://127.0.0.1:*"
END = b"\xff" * 8


def stored(number: int, medium: str = POOL) -> KVEvent:
    return BlockStored(
        block_hashes=[number],
        parent_block_hash=None,
        token_ids=[1, 2] if medium == POOL else [],
        block_size=2,
        lora_id=None,
        medium=medium,
        lora_name=None,
    )


def removed(number: int) -> KVEvent:
    return BlockRemoved(block_hashes=[number], medium=POOL)


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def publisher() -> Iterator[KVEventPublisher]:
    publisher = KVEventPublisher(ANY_PORT, replay_address=ANY_PORT, topic="kv@a@m", max_queued=10, max_kept=20)
    yield publisher
    publisher.close()


def connect(context: "zmq.Context[zmq.Socket[bytes]]", kind: int, address: str | None) -> "zmq.Socket[bytes]":
    socket = context.socket(kind)
    socket.setsockopt(zmq.RCVTIMEO, 30_000)
    if kind == zmq.SUB:
        socket.setsockopt(zmq.SUBSCRIBE, b"kv@")
    assert address is not None
    socket.connect(address)
    return socket


def replay(socket: "zmq.Socket[bytes]", start: int) -> list[tuple[int, bytes]]:
    """The batches from a number on, as vLLM's subscribers ask for them."""
    socket.send_multipart([b"", start.to_bytes(8, "big")])
    batches = []
    while True:
        empty, topic, number, payload = socket.recv_multipart()
        assert empty == b""
        if number == END:
            assert (topic, payload) == (b"", b"")
            return batches
        assert topic == b"kv@a@m"
        batches.append((int.from_bytes(number, "big"), payload))


def wait_for(socket: "zmq.Socket[bytes]", number: int) -> list[tuple[int, bytes]]:
    """All kept batches, once that with a number has been sent."""
    while not (batches := replay(socket, 0)) or batches[-1][0] < number:
        pass
    return batches


def test_subscribers_get_batches_in_order(
    publisher: KVEventPublisher, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    socket, subscriber = connect(context, zmq.SUB, publisher.address), KVSubscriber()
    numbers: list[int] = []
    count = 0
    while len(numbers) < 5:  # a subscription takes a moment, in which events are not for it
        publisher.publish([stored(count)])
        count += 1
        while socket.poll(10):
            topic, number, payload = socket.recv_multipart()
            assert topic == b"kv@a@m"
            numbers.append(int.from_bytes(number, "big"))
            subscriber.receive(payload)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert subscriber.cached["GPU"] == {number - 1 for number in numbers if number > 0}  # 0 cleared all


def test_a_subscriber_that_comes_late_gets_what_it_missed(
    publisher: KVEventPublisher, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    publisher.publish([stored(1), stored(2)])
    publisher.publish([stored(3), removed(1)])
    publisher.publish([stored(1, DISK)])
    socket, subscriber = connect(context, zmq.DEALER, publisher.replay_address), KVSubscriber()
    batches = wait_for(socket, 3)
    for _, payload in batches:
        subscriber.receive(payload)
    assert [number for number, _ in batches] == [0, 1, 2, 3]
    assert subscriber.events[0] == {"type": "AllBlocksCleared"}
    assert subscriber.cached == {"GPU": {2, 3}, "DISK": {1}}
    assert [number for number, _ in replay(socket, 2)] == [2, 3]
    assert replay(socket, 4) == []


def test_the_oldest_batches_are_forgotten(
    publisher: KVEventPublisher, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    socket = connect(context, zmq.DEALER, publisher.replay_address)
    for number in range(1, 31):
        publisher.publish([stored(number)])
        wait_for(socket, number)
    assert [number for number, _ in replay(socket, 0)] == list(range(11, 31))


def test_a_request_that_is_no_number_is_ignored(
    publisher: KVEventPublisher, context: "zmq.Context[zmq.Socket[bytes]]"
) -> None:
    socket = connect(context, zmq.DEALER, publisher.replay_address)
    socket.send_multipart([b"", b"all"])
    assert [number for number, _ in wait_for(socket, 0)] == [0]


def test_a_full_queue_drops_and_counts_and_then_clears(
    context: "zmq.Context[zmq.Socket[bytes]]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subscribers then know fewer blocks than there are, and none that is gone."""
    is_held, goes_on = threading.Event(), threading.Event()
    send = KVEventPublisher._send

    def slow_send(self: KVEventPublisher, payload: bytes) -> None:
        is_held.set()
        assert goes_on.wait(30)
        send(self, payload)

    monkeypatch.setattr(KVEventPublisher, "_send", slow_send)
    publisher = KVEventPublisher(ANY_PORT, replay_address=ANY_PORT, topic="kv@a@m", max_queued=2)
    try:
        assert is_held.wait(30)
        for number in (1, 2):
            publisher.publish([stored(number)])
        publisher.publish([removed(1), stored(3)])  # which no one waits for
        assert publisher.take_num_dropped() == 2
        assert publisher.take_num_dropped() == 0
        goes_on.set()
        socket, subscriber = connect(context, zmq.DEALER, publisher.replay_address), KVSubscriber()
        wait_for(socket, 2)
        publisher.publish([stored(4)])
        for _, payload in wait_for(socket, 3):
            subscriber.receive(payload)
        assert subscriber.cached["GPU"] == {4}
    finally:
        goes_on.set()
        publisher.close()


def test_an_address_that_is_taken_is_refused(publisher: KVEventPublisher) -> None:
    with pytest.raises(OptionError, match=r"--kv-events tcp://127\.0\.0\.1:\d+ cannot be bound .*; give an address"):
        KVEventPublisher(publisher.address)
    assert publisher.replay_address is not None
    with pytest.raises(OptionError, match=r"--kv-events-replay tcp://127\.0\.0\.1:\d+ cannot be bound"):
        KVEventPublisher(ANY_PORT, replay_address=publisher.replay_address)


def test_a_port_is_free_again_after_the_end() -> None:
    first = KVEventPublisher(ANY_PORT)
    first.close()
    KVEventPublisher(first.address).close()
