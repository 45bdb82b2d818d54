"""What is sent to an engine process, and that the event loop serves others meanwhile."""

import asyncio
import contextlib
import socket

import pytest

from engine.child_processes.frames import encode_frame
from engine.client import engine_process
from engine.client.engine_process import send_all
from engine.protocol import AbortPooling, AddPooling, PoolingParams, PoolingRequest, PoolingTask, ToEngine
from tests.helpers.engine_socket import receive_to_engine

pytestmark = pytest.mark.fast


def texts(name: str) -> AddPooling:
    params = PoolingParams(task=PoolingTask.EMBED)
    return AddPooling([PoolingRequest(id=name, prompt_ids=[1, 2], params=params, arrival_s=0.0)])


async def sent(messages: list[ToEngine]) -> list[ToEngine | None]:
    """What arrives of the messages, which are all there from the beginning."""
    outbox: asyncio.Queue[bytes | AddPooling] = asyncio.Queue()
    for message in messages:
        outbox.put_nowait(message if isinstance(message, AddPooling) else encode_frame(message))
    ours, theirs = socket.socketpair()
    sender = asyncio.create_task(send_all(outbox, ours))
    with theirs:
        arrived = [await asyncio.to_thread(receive_to_engine, theirs) for _ in messages]
    sender.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sender
    return arrived


async def test_messages_arrive_in_order() -> None:
    messages = [texts("a"), AbortPooling(["a"]), texts("b")]
    assert await sent(messages) == messages


async def test_the_loop_has_a_turn_between_two_messages_with_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, seen = 0, []
    loop = asyncio.get_running_loop()

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    def encode(message: ToEngine) -> bytes:
        seen.append(turns)
        return encode_frame(message)

    monkeypatch.setattr(engine_process, "encode_frame", encode)
    loop.call_soon(turn)
    await sent([texts("a"), texts("b"), texts("c")])
    assert len(set(seen)) == 3
