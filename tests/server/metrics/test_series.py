"""How many series there are does not depend on what clients send."""

import asyncio
import random
import string
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.asgi import Headers, RawRequest
from tests.helpers.fake_client import MODEL, FakeClient, make_app, says

pytestmark = pytest.mark.fast

_MAX_GROWTH = 8
_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/api/chat", "/tokenize")
_METHODS = ("GET", "POST", "PUT", "DELETE", "BREW", "M-SEARCH")


class _Odd:
    """Requests of one campaign: of the same kinds as another's, with words that no other has."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(0)
        self._letters = random.Random(seed)

    def word(self) -> str:
        return "".join(self._letters.choices(string.ascii_letters + string.digits + '"\\{}', k=12))

    def body(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "model": self._random.choice((MODEL, self.word())),
            "prompt": self.word(),
            "messages": [{"role": self._random.choice(("user", self.word())), "content": self.word()}],
            "input": self.word(),
            "max_tokens": self._random.choice((1, 5, -1, 10**9, self.word())),
            "service_tier": self._random.choice(("auto", "flex", self.word())),
            "user": self.word(),
            "stop": self.word(),
            self.word(): self.word(),
        }
        return {name: fields[name] for name in self._random.sample(list(fields), 7)}

    def request(self, path: str, method: str) -> tuple[str, dict[str, Any], str, Headers]:
        path = self._random.choice((path, path + "/" + self.word(), "/" + self.word(), "/v1/models/" + self.word()))
        words = [b"x-request-id", b"user-agent", b"authorization", b"traceparent", b"x-" + self.word().encode()]
        headers = [(b"host", b"server"), *((name, self.word().encode()) for name in words)]
        return path, self.body(), method, headers


def _num_series(app: Any) -> int:
    text = app.state.context.metrics.scrape("")[0].decode()
    return sum(len(family.samples) for family in text_string_to_metric_families(text))


async def _send(app: Any, path: str, body: dict[str, Any], method: str, headers: Headers) -> None:
    async with RawRequest(app, path, body, headers=headers, method=method) as request:
        await request.ended()


async def test_odd_requests_add_no_series() -> None:
    app = make_app(FakeClient(says("x")))
    counts = []
    for seed in range(2):
        odd = _Odd(seed)
        requests = [odd.request(path, method) for path in _PATHS for method in _METHODS for _ in range(3)]
        await asyncio.gather(*(_send(app, *request) for request in requests))
        counts.append(_num_series(app))
    assert counts[0] > 500
    assert counts[1] - counts[0] <= _MAX_GROWTH
