"""OpenAI's streaming completions for OpenVINO GenAI, which has no server: for comparisons only.

    rivals/openvino/bin/python benchmarks/openvino_server.py FOLDER --port 8950 --threads 2

Runs in an environment with openvino-genai and tokenizers, and imports no module of headrace. It costs next to nothing,
so that OpenVINO is measured and not its wrapper: new tokens are written to the sockets right after the step of the
ContinuousBatchingPipeline that made them, without a queue or a web framework in between. One connection per request,
greedy decoding only.
"""

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_MAX_HEADER_BYTES = 1 << 16
_LOOP_TURNS = 8  # turns of the event loop from a new connection to its request in the pipeline
_Tokens = list[tuple["_Request", list[int], str | None]]  # new ids, and the finish reason of a request that ended


@dataclass(slots=True, eq=False)
class _Request:
    """One completion."""

    writer: asyncio.StreamWriter
    prompt_ids: list[int]
    max_tokens: int
    ignore_eos: bool
    is_chat: bool
    streams: bool
    handle: Any = None
    text: DecodeStream = field(default_factory=lambda: DecodeStream(skip_special_tokens=True))
    parts: list[str] = field(default_factory=list)  # texts of a response that is not streamed
    num_output: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)


class BadRequest(Exception):
    """The request cannot be served; the text is for the client."""


class Engine:
    """A pipeline that is stepped in the event loop's thread while there are requests.

    A step holds the GIL from its beginning to its end, so that a second thread could not run in the meantime.
    """

    def __init__(self, pipeline: genai.ContinuousBatchingPipeline, deliver: Callable[[_Tokens], None]) -> None:
        """deliver: called with the tokens of each step."""
        self._pipeline = pipeline
        self._deliver = deliver
        self._running: list[_Request] = []
        self._has_work = asyncio.Event()
        self._next_id = 0

    def add(self, request: _Request) -> None:
        self._start(request)
        self._running.append(request)
        self._has_work.set()

    async def run(self) -> None:
        while True:
            await self._has_work.wait()
            self._pipeline.step()
            tokens = [each for request in self._running if (each := _new_tokens(request)) is not None]
            ended = {request for request, _, reason in tokens if reason is not None}
            self._running = [request for request in self._running if request not in ended]
            if not self._running:
                self._has_work.clear()
            self._deliver(tokens)
            for _ in range(_LOOP_TURNS):
                await asyncio.sleep(0)

    def _start(self, request: _Request) -> None:
        config = genai.GenerationConfig()
        config.max_new_tokens = request.max_tokens
        config.ignore_eos = request.ignore_eos
        config.do_sample = False
        config.eos_token_id = self._pipeline.get_config().eos_token_id
        config.stop_token_ids = self._pipeline.get_config().stop_token_ids
        ids = openvino.Tensor(np.array([request.prompt_ids], dtype=np.int64))
        self._next_id += 1
        request.handle = self._pipeline.add_request(self._next_id, ids, config)


def _new_tokens(request: _Request) -> tuple[_Request, list[int], str | None] | None:
    """Return the request's new tokens from the last step; None if there are none."""
    handle = request.handle
    if request.writer.is_closing():
        handle.stop()
        return request, [], "stop"
    ids: list[int] = []
    while handle.can_read():
        ids += next(iter(handle.read().values())).generated_ids
    status = handle.get_status()
    if status == genai.GenerationStatus.RUNNING:
        return (request, ids, None) if ids else None
    is_whole = status == genai.GenerationStatus.FINISHED
    return request, ids, "length" if is_whole and request.ignore_eos else "stop" if is_whole else "error"


class Server:
    """HTTP/1.1 over asyncio streams: /health, /v1/models, /v1/completions, /v1/chat/completions."""

    def __init__(self, folder: Path, pipeline: genai.ContinuousBatchingPipeline) -> None:
        self._name = folder.name
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._templater = pipeline.get_tokenizer()
        self._engine = Engine(pipeline, self._deliver)

    async def run(self, port: int) -> None:
        """Serve until canceled."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=_MAX_HEADER_BYTES)
        async with listener:
            await self._engine.run()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                method, path, body = await _read_request(reader)
                await self._answer(f"{method} {path}", body, writer)
            except BadRequest as error:
                _write_json(writer, HTTPStatus.BAD_REQUEST, {"error": {"message": str(error)}})
            await writer.drain()
        writer.close()

    async def _answer(self, route: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        match route:
            case "GET /health":
                _write_json(writer, HTTPStatus.OK, {"status": "ok"})
            case "GET /v1/models":
                _write_json(writer, HTTPStatus.OK, {"object": "list", "data": [{"id": self._name, "object": "model"}]})
            case "POST /v1/completions" | "POST /v1/chat/completions":
                request = self._request(body, writer, is_chat="chat" in route)
                if request.streams:
                    _write_head(writer, HTTPStatus.OK, "text/event-stream")
                self._engine.add(request)
                await request.done.wait()
            case _:
                _write_json(writer, HTTPStatus.NOT_FOUND, {"error": {"message": f"no {route} here"}})

    def _request(self, body: bytes, writer: asyncio.StreamWriter, *, is_chat: bool) -> _Request:
        try:
            fields = json.loads(body)
            return _Request(
                writer=writer,
                prompt_ids=self._prompt_ids(fields, is_chat=is_chat),
                max_tokens=int(fields.get("max_tokens") or 16),
                ignore_eos=bool(fields.get("ignore_eos", False)),
                is_chat=is_chat,
                streams=bool(fields.get("stream", False)),
            )
        except (ValueError, LookupError, TypeError) as error:
            raise BadRequest(f"malformed request: {error}") from error

    def _prompt_ids(self, fields: Mapping[str, Any], *, is_chat: bool) -> list[int]:
        prompt = fields["messages" if is_chat else "prompt"]
        if is_chat:
            text = self._templater.apply_chat_template(prompt, add_generation_prompt=True)
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        return list(self._tokenizer.encode(prompt).ids) if isinstance(prompt, str) else [int(each) for each in prompt]

    def _deliver(self, tokens: _Tokens) -> None:
        """Write a step's tokens to their clients."""
        for request, ids, reason in tokens:
            request.num_output += len(ids)
            pieces = (request.text.step(self._tokenizer, each) for each in ids)
            text = "".join(piece for piece in pieces if piece is not None)
            if not request.streams:
                request.parts.append(text)
            elif not request.writer.is_closing():
                request.writer.write(_event(self._chunk(request, text, reason)))
            if reason is not None:
                self._finish(request, reason)

    def _finish(self, request: _Request, reason: str) -> None:
        usage = {
            "prompt_tokens": len(request.prompt_ids),
            "completion_tokens": request.num_output,
            "total_tokens": len(request.prompt_ids) + request.num_output,
        }
        if not request.streams:
            answer = self._chunk(request, "".join(request.parts), reason)
            _write_json(request.writer, HTTPStatus.OK, {**answer, "usage": usage})
        elif not request.writer.is_closing():
            request.writer.write(_event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")
        request.done.set()

    def _chunk(self, request: _Request, text: str, reason: str | None) -> dict[str, Any]:
        key = "delta" if request.streams else "message"
        content = {key: {"role": "assistant", "content": text}} if request.is_chat else {"text": text}
        kind = "chat.completion" if request.is_chat else "text_completion"
        choice = {"index": 0, **content, "finish_reason": reason}
        return {"id": f"{id(request):x}", "object": kind, "model": self._name, "choices": [choice]}


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes]:
    """Return method, path and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    return method, path, await reader.readexactly(int(headers.get("content-length", 0)))


def _write_head(writer: asyncio.StreamWriter, status: HTTPStatus, content_type: str) -> None:
    head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n"
    writer.write(head.encode())


def _write_json(writer: asyncio.StreamWriter, status: HTTPStatus, value: Any) -> None:
    _write_head(writer, status, "application/json")
    writer.write(json.dumps(value).encode())


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a model exported for OpenVINO, with its tokenizer.json")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2, help="compute threads (default: 2)")
    parser.add_argument("--cache-gb", type=int, default=2, help="size of the KV cache (default: 2)")
    parser.add_argument("--max-num-seqs", type=int, default=8, help="most concurrent sequences (default: 8)")
    parser.add_argument(
        "--max-num-batched-tokens", type=int, default=512, help="most tokens computed in one step (default: 512)"
    )
    parser.add_argument(
        "--precision", choices=["f32", "bf16"], help="of activations between the layers (default: what OpenVINO takes)"
    )
    return parser.parse_args()


def _load(options: argparse.Namespace) -> genai.ContinuousBatchingPipeline:
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = options.cache_gb
    scheduler.max_num_seqs = options.max_num_seqs
    scheduler.max_num_batched_tokens = options.max_num_batched_tokens
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = True
    properties = {"INFERENCE_NUM_THREADS": options.threads, "PERFORMANCE_HINT": "LATENCY"}
    if options.precision is not None:
        properties["INFERENCE_PRECISION_HINT"] = options.precision
    return genai.ContinuousBatchingPipeline(str(options.folder), scheduler, "CPU", properties)


def main() -> None:
    options = _parse_options()
    began_s = time.monotonic()
    server = Server(options.folder, _load(options))
    print(f"openvino-genai {genai.__version__} loaded in {time.monotonic() - began_s:.1f} s", flush=True)  # noqa: T201
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.run(options.port))


if __name__ == "__main__":
    main()
