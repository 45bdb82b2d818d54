"""Site: an application with a keys file, and its clients."""

from functools import partial
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from engine.protocol import EngineRequest
from tests.helpers.fake_client import FakeClient, Step, http, make_app, says
from tests.helpers.keys import bearer, write_keys

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
TEXT: dict[str, Any] = {"prompt": "abcdefgh", "max_tokens": 4}


class Site:
    """An application whose keys file has these entries."""

    def __init__(self, path: Path, client: FakeClient, *entries: dict[str, Any], **options: Any) -> None:
        self.path = path / "keys.json"
        self.client = client
        self.app = make_app(client, api_keys_file=write_keys(self.path, *entries), **options)

    def api(self, name: str) -> httpx.AsyncClient:
        return http(self.app, **bearer(name))

    def stop_time(self) -> None:
        """Have no rate bring anything any more."""
        for account in self.app.state.context.keys.ring._accounts.values():
            for bucket in (account.requests, account.tokens):
                if bucket is not None:
                    bucket._clock = partial(float, bucket._clock())

    async def change(self, *entries: dict[str, Any]) -> None:
        """Write the file and have it read, as two of the server's looks do."""
        write_keys(self.path, *entries)
        watcher = self.app.state.context.keys._watcher
        await watcher.check()
        await watcher.check()


def waits(request: EngineRequest) -> list[Step]:
    """A script that says a word and waits to be aborted."""
    return [*says("Hello")(request)[:2], None]


def sample(app: FastAPI, name: str, **labels: str) -> float:
    value = app.state.context.metrics._families.registry.get_sample_value(name, labels)
    assert value is not None, f"no {name} with {labels}"
    return float(value)
