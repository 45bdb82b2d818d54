"""Requests of a synthesis, and a fake teacher that answers them."""

import asyncio
import json
from typing import Any

import httpx

from server.commands.synthesize.http_client import SynthesisClient
from server.commands.synthesize.journal import RunName
from server.synthesis.recipe import Step
from server.synthesis.requests import step_request
from tests.helpers.fake_client import MODEL
from tests.helpers.synthesis import completion

RUN = RunName("mine", 0)
STEP = Step(name="reply", prompt="{task}", max_tokens=50)
REQUESTS = [step_request(STEP, {"task": f"Do {n}."}, f"{n:06}-reply", MODEL, 0) for n in range(6)]
IDS = [each.custom_id for each in REQUESTS]


class RunKilled(Exception):
    """End of a run in the middle, as by SIGKILL."""


class Teacher:
    """A fake endpoint. replies: (status, headers) of its first answers; 0: the connection is refused. Then it answers
    all."""

    def __init__(self, *replies: tuple[int, dict[str, str]]) -> None:
        self.replies = list(replies)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.waits: list[float] = []
        self.content = json.dumps(completion("Done.")).encode()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(json.loads(request.content))
        self.keys.append(request.headers.get("authorization"))
        if self.replies:
            status, headers = self.replies.pop(0)
            if not status:
                raise httpx.ConnectError("All connection attempts failed") from ConnectionRefusedError("refused")
            return httpx.Response(status, headers=headers, json={"error": {"message": "too much"}})
        return httpx.Response(200, content=self.content)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    def client(self) -> SynthesisClient:
        return SynthesisClient(
            "http://teacher/v1",
            "secret",
            key_source="OPENAI_API_KEY",
            sleep=self.sleep,
            transport=httpx.MockTransport(self),
        )
