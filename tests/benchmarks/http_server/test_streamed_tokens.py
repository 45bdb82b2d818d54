"""The paced engine's messages, and the clients that count its tokens."""

import asyncio
import queue
import re
import socket
import threading

import pytest

from benchmarks.http_server import paced_engine, streamed_tokens
from benchmarks.http_server.load import post
from engine.child_processes.frames import receive_frame
from engine.protocol import AddRequest, EngineRequest, FinishReason, SamplingParams, Started, StepOutputs, ToEngine
from engine.protocol.messages import decode_from_engine


def test_each_step_has_a_token_of_each_open_request() -> None:
    ours, theirs = socket.socketpair()
    inbox: queue.SimpleQueue[ToEngine] = queue.SimpleQueue()
    for name, num_tokens in (("a", 2), ("b", 3)):
        sampling = SamplingParams(max_tokens=num_tokens)
        inbox.put(AddRequest(EngineRequest(id=name, prompt_ids=[1], sampling=sampling, arrival_s=0.0)))
    threading.Thread(target=paced_engine.serve, args=(theirs, inbox, 0.0), daemon=True).start()
    steps: list[list[tuple[str, FinishReason | None]]] = []
    while len(steps) < 3:
        frame = receive_frame(ours)
        assert frame is not None
        message = decode_from_engine(frame)
        if isinstance(message, Started):
            continue
        assert isinstance(message, StepOutputs)
        assert all(output.new_ids == [ord(paced_engine.TOKEN)] for output in message.outputs)
        steps.append([(output.id, output.finish_reason) for output in message.outputs])
    end = FinishReason.LENGTH
    assert steps == [[("a", None), ("b", None)], [("a", end), ("b", None)], [("b", end)]]


async def test_a_client_counts_tokens_and_events_until_the_end() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (b'data: {"content":"Z"}\n\ndata: {"content":"ZZ"}\n\n', b"data: [DO", b"NE]\n\n"):
            writer.write(piece)
            await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        (client,) = await streamed_tokens.connect(port, post("/stream"), 1)
        await client.ended
    assert (client.num_tokens, client.num_events) == (3, 2)


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        (client,) = await streamed_tokens.connect(port, post("/stream"), 1)
        with pytest.raises(ConnectionError):
            await client.ended


def test_the_server_streams_the_tokens_of_the_paced_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "streamed_tokens --streams 2 --rate 40 --tokens 80 --rounds 1 --options=--stream-interval=4"
    monkeypatch.setattr("sys.argv", command.split())
    streamed_tokens.main()
    assert re.fullmatch(r"2 streams: \d+\.\d us a token .*, [34]\.\d\d tokens an event\n", capsys.readouterr().out)
