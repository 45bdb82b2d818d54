"""ChatClient: what the terminal asks a server over HTTP, and its errors in words."""

import json
from collections.abc import Generator, Iterator
from typing import Any

import httpx

_TIMEOUT = httpx.Timeout(connect=5.0, read=600.0, write=30.0, pool=5.0)


class ServerProblem(Exception):
    """The server refused, failed, or cannot be reached; the text says which."""


class ChatClient:
    """Speaks OpenAI's API with the server at `url`; a context manager."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT, trust_env=False)

    def __enter__(self) -> "ChatClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """The answer's JSON. Raises ServerProblem."""
        try:
            response = self._http.get(path)
        except httpx.TransportError as error:
            raise ServerProblem(f"{self.url} cannot be reached ({error})") from None
        _check(response)
        return response.json()

    def models(self) -> list[str]:
        """The names that the server answers to. Raises ServerProblem."""
        return [model["id"] for model in self.get("/v1/models")["data"]]

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """The chunks of a streamed answer. Closing it ends the answer at the server. Raises ServerProblem."""
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            with self._http.stream("POST", path, json=asked) as response:
                if response.is_error:
                    response.read()
                _check(response)
                yield from _events(response)
        except httpx.TransportError as error:
            raise ServerProblem(f"the connection to {self.url} broke ({error})") from None

    def frames(self) -> Generator[dict[str, Any]]:
        """What the engine does, without end. Raises ServerProblem."""
        try:
            with self._http.stream("GET", "/dashboard/events") as response:
                if response.is_error:
                    response.read()
                _check(response)
                yield from _events(response)
        except httpx.TransportError as error:
            raise ServerProblem(f"{self.url} cannot be reached ({error})") from None


def _check(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    raise ServerProblem(f"{response.status_code}: {message}")


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        data = line.removeprefix("data: ")
        if data == line or data == "[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise ServerProblem(str(chunk["error"]["message"]))
        yield chunk
