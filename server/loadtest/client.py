"""LoadClient: sends streaming requests to an OpenAI-compatible server, and times them."""

import asyncio
import math
import time
from typing import Any

import httpx
import msgspec

from engine.errors import StartupError
from server.loadtest.config import LoadConfig, LoadEndpoint
from server.loadtest.metrics import Trace

Message = dict[str, str]
Input = list[int] | str | list[Message]  # token ids or text for completions, messages for chats

_PATHS = {LoadEndpoint.COMPLETIONS: "/v1/completions", LoadEndpoint.CHAT: "/v1/chat/completions"}
_ERROR_LENGTH = 200


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None

    @property
    def new_text(self) -> str:
        if self.delta is None:
            return self.text or ""
        return (self.delta.reasoning_content or "") + (self.delta.content or "")


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(msgspec.Struct):
    """Fields of a streamed chunk that are needed. The decoder skips all others, which keeps the client cheap."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class LoadClient:
    """HTTP client that sends the requests of a load; an async context manager."""

    def __init__(
        self, config: LoadConfig, api_key: str | None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """transport: replaces the network in tests."""
        self._config = config
        self._extra = _parse_extra(config.extra_body)
        self._model: str | None = config.model
        self._path = _PATHS[config.endpoint]
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=config.url.rstrip("/").removesuffix("/v1"),
            headers={"content-type": "application/json", **headers},
            timeout=None,  # `send` has one deadline for a whole request
            # A connection for each request, like separate clients: a server may close an idle connection at the moment
            # when it is used again, and that failure would be the client's.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            transport=transport,
            trust_env=False,  # a proxy from the environment would be measured with the server
        )

    async def __aenter__(self) -> "LoadClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def find_model(self) -> str:
        """Return the id of the requested model, by default the first one that the server lists.

        Raises StartupError if the server does not list its models.
        """
        if self._model is None:
            try:
                response = await self._http.get("/v1/models", timeout=10)
                response.raise_for_status()
                self._model = str(response.json()["data"][0]["id"])
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
                raise StartupError(
                    f"{self._config.url} does not list its models: {_describe(error)}; check --url and that the server "
                    "is ready, or give --model"
                ) from error
        return self._model

    async def send(self, prompt: Input, output_len: int, prediction: str | None = None) -> Trace:
        """Stream one completion of `prompt`. Errors are reported in the trace's `error`."""
        request = self._http.build_request("POST", self._path, content=self._body(prompt, output_len, prediction))
        trace = Trace(sent_s=time.perf_counter())
        try:
            async with asyncio.timeout(self._config.timeout):
                await self._stream(request, trace)
        except TimeoutError:
            trace.error = f"not finished after {self._config.timeout:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.DecodeError) as error:
            trace.error = _describe(error)
        return trace

    def _body(self, prompt: Input, output_len: int, prediction: str | None) -> bytes:
        body: dict[str, Any] = {
            "model": self._model,
            "messages" if self._config.endpoint is LoadEndpoint.CHAT else "prompt": prompt,
            "max_tokens": output_len,
            "temperature": self._config.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._config.ignore_eos:
            body["ignore_eos"] = True
        if prediction is not None:
            body["prediction"] = {"type": "content", "content": prediction}
        return msgspec.json.encode(body | self._extra)

    async def _stream(self, request: httpx.Request, trace: Trace) -> None:
        response = await self._http.send(request, stream=True)
        try:
            if response.status_code != 200:
                trace.error = f"HTTP {response.status_code}: {_error_text(await response.aread())}"
                return
            lines = LineSplitter()
            async for data in response.aiter_bytes():
                now_s = time.perf_counter()
                for line in lines.feed(data):
                    if line.startswith(b"data:") and (payload := line[5:].strip()) != b"[DONE]":
                        _record(_decode(payload), now_s, trace)
        finally:
            await response.aclose()
        if trace.error is None and (trace.output_tokens == 0 or math.isnan(trace.last_s)):
            trace.error = "the stream ended without a choice, or without the usage that counts its tokens"


class LineSplitter:
    """Cuts a stream of bytes into lines; an incomplete line waits for more bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without newlines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines


def _record(chunk: _Chunk, now_s: float, trace: Trace) -> None:
    if chunk.error is not None:
        trace.error = _error_text(msgspec.json.encode({"error": chunk.error}))
    if chunk.choices:
        trace.last_s = now_s
        if text := chunk.choices[0].new_text:
            trace.text += text
            trace.text_s.append(now_s)
    if chunk.usage is not None:
        trace.prompt_tokens = chunk.usage.prompt_tokens
        trace.output_tokens = chunk.usage.completion_tokens
        details = chunk.usage.prompt_tokens_details
        trace.cached_tokens = details.cached_tokens if details is not None else None


def _parse_extra(text: str | None) -> dict[str, Any]:
    try:
        return {} if text is None else msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise StartupError(f"--extra-body is {text!r}; it must be a JSON object: {error}") from error


def _error_text(body: bytes) -> str:
    """Return the message of an OpenAI error body, or the body itself if it has another form."""
    try:
        error = msgspec.json.decode(body)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (msgspec.DecodeError, LookupError, TypeError):
        text = body.decode(errors="replace")
    return text if len(text) <= _ERROR_LENGTH else text[:_ERROR_LENGTH] + "..."


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
