"""ChatClient: the terminal's HTTP client, with readable errors."""

import itertools
import json
import ssl
from collections.abc import Generator, Iterator
from typing import Any

import httpx

from engine.errors import StartupError
from server.commands.options.definitions import CLIENT_KEY_VARIABLE
from server.loadtest.client import LineSplitter

_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"  # OpenSSL's word
_TIMEOUT = httpx.Timeout(connect=5.0, read=600.0, write=30.0, pool=5.0)
_ENDLESS = httpx.Timeout(connect=5.0, read=None, write=30.0, pool=5.0)


class ServerProblem(StartupError):
    """The server refused, failed, or cannot be reached; the message explains which."""


class ChatClient:
    """A context manager for requests to the server at `url`, in OpenAI's API."""

    def __init__(
        self, url: str, key: str | None, *, key_source: str = "", authorities: ssl.SSLContext | None = None
    ) -> None:
        """key_source: where the key comes from, for errors. authorities: trusted for https; None for the public CAs."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self._key_source = None if key is None else key_source
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        verify = True if authorities is None else authorities
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT, trust_env=False, verify=verify)

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """Return the JSON at `path`. Raises ServerProblem."""
        return self._sent(self._http.build_request("GET", path)).json()

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Return the answer to a request that is not streamed, however long it takes. Raises ServerProblem."""
        return self._sent(self._http.build_request("POST", path, json=body, timeout=_ENDLESS)).content

    def _sent(self, request: httpx.Request) -> httpx.Response:
        try:
            response = self._http.send(request)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        self._check(response)
        return response

    def models(self) -> list[str]:
        """Return the names of the served models. Raises ServerProblem."""
        return [model["id"] for model in self.get("/v1/models")["data"]]

    def chat_models(self) -> list[str]:
        """Return the names of models that can chat, or may be able to. Raises ServerProblem."""
        return [model["id"] for model in self.get("/v1/models")["data"] if _can_chat(model)]

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """Yield the chunks of a streamed answer. Closing the generator aborts the request. Raises ServerProblem."""
        request = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            with self._http.stream("POST", path, json=request) as response:
                self._check(response)
                yield from _events(response)
        except httpx.TransportError as error:
            raise ServerProblem(f"the connection to {self.url} was lost ({error})") from None

    def frames(self, num_frames: int | None = None, model: str | None = None) -> Generator[dict[str, Any]]:
        """Yield a model's dashboard frames (default: first model), by default without end. Raises ServerProblem."""
        params = {name: str(value) for name, value in (("frames", num_frames), ("model", model)) if value is not None}
        try:
            with self._http.stream("GET", "/dashboard/events", params=params) as response:
                self._check(response)
                yield from itertools.islice(_events(response), num_frames)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: httpx.TransportError) -> ServerProblem:
        remedy = "start a server with headrace serve, or give the address of a running one"
        if _UNTRUSTED in str(error):
            remedy = "name the authority that signed its certificate with --ca-file"
        return ServerProblem(f"{self.url} cannot be reached ({error}); {remedy}")

    def _check(self, response: httpx.Response) -> None:
        """Raise ServerProblem for an error status."""
        if not response.is_error:
            return
        response.read()
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:200]
        if response.status_code == 401:
            message = self._about_key(str(message))
        raise ServerProblem(f"{response.status_code}: {message}")

    def _about_key(self, message: str) -> str:
        """Reword a 401 error for the command line: it names the key's file or variable instead of HTTP headers."""
        if self._key_source is None:
            return f"{self.url} requires a key; put it into {CLIENT_KEY_VARIABLE}, or into a file for --key-file"
        return f"{self.url} refuses the key from {self._key_source} ({message.partition(';')[0]})"


def _can_chat(card: dict[str, Any]) -> bool:
    """Whether the model can chat. Assumed if unknown: on other servers, or if headrace has not loaded the model yet."""
    own = card.get("headrace")
    can = own.get("capabilities") if isinstance(own, dict) else None
    return not can or "completion" in can


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    lines = LineSplitter()  # httpx would also cut at characters within an answer, such as U+2028
    for data in response.iter_bytes():
        for line in lines.feed(data):
            if line.startswith(b"data:") and (payload := line[5:].strip()) != b"[DONE]":
                chunk = json.loads(payload)
                if "error" in chunk:
                    raise ServerProblem(str(chunk["error"]["message"]))
                yield chunk
