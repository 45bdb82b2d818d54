"""Mutated bodies for every route: none may make the server fail, or answer what is no error as it is described."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
from fastapi import FastAPI

from tests.fuzz.mutations import encode_oddly, mutate_bytes, mutate_value
from tests.helpers.api_cases import fake_app

MAX_S = 3.0  # of the processor, for one request; a body has 8 MiB at most, and these have less
_TYPES = ("application/json", "application/json", "application/json", "text/plain", "application/json; charset=utf-16")


def examples(app: FastAPI) -> dict[str, Any]:
    """The documented example of each route that takes a JSON body."""
    schema = json.loads(asyncio.run(_get(app, "/openapi.json")))
    return {
        path: operation["requestBody"]["content"]["application/json"]["example"]
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
        if method == "post" and "application/json" in operation.get("requestBody", {"content": ()})["content"]
    }


async def _get(app: FastAPI, path: str) -> bytes:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return (await client.get(path)).content


def bodies(rng: random.Random, example: Any) -> Iterator[bytes]:
    """Endlessly many."""
    while True:
        data = mutate_value(rng, example)
        kind = rng.random()
        if kind < 0.15:
            data = mutate_bytes(rng, data)
        elif kind < 0.2:
            data = encode_oddly(rng, data)
        yield data


class Bodies:
    """Sends them to an application with a fake engine, in this process."""

    def __init__(self) -> None:
        self.app = fake_app()
        self.examples = examples(self.app)
        self.statuses: Counter[int] = Counter()

    def run(self, num_requests: int, seed: int) -> list[tuple[str, bytes, str]]:
        """Path, body and what is wrong, of each request whose answer is."""
        return asyncio.run(self._run(num_requests, seed))

    async def _run(self, num_requests: int, seed: int) -> list[tuple[str, bytes, str]]:
        rng = random.Random(seed)
        sources = {path: bodies(rng, example) for path, example in self.examples.items()}
        wrong = []
        for number in range(num_requests):
            path = list(sources)[number % len(sources)]
            body = next(sources[path])
            fault = await self.send(path, body, rng.choice(_TYPES))
            if fault is not None:
                wrong.append((path, body, fault))
        return wrong

    async def send(self, path: str, body: bytes, content_type: str = "application/json") -> str | None:
        """What is wrong with the answer."""
        url = path.replace("{conversation_id}", "conv_0").replace("{response_id}", "resp_0").replace("{name}", "a")
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        began_s = time.process_time()
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=60) as client:
            response = await client.post(url, content=body, headers={"content-type": content_type})
        took_s = time.process_time() - began_s
        self.statuses[response.status_code] += 1
        if response.status_code >= 500 and response.status_code not in (503, 504):
            return f"{response.status_code}: {response.text[:300]}"
        if took_s > MAX_S:
            return f"took {took_s:.1f} s"
        if response.status_code >= 400:
            try:
                message = response.json()["error"]
            except (ValueError, KeyError, TypeError):
                return f"{response.status_code} is no error object: {response.text[:300]}"
            if len(str(message)) > 5000:
                return f"an error of {len(str(message))} characters"
        return None
