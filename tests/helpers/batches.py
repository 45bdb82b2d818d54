"""Batches in tests: lines, and a runner beside an application."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

from fastapi import FastAPI

from server.batches.kind import BatchJobs
from server.batches.running import run_body
from server.jobs.environment import AnswerBody, Sleep
from server.jobs.runner import JobRunner
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL

CHAT = "/v1/chat/completions"


def chat_line(custom_id: str, text: str = "hi", **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": CHAT,
        "body": {"model": MODEL, "messages": messages, **body},
    }


def jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def read_jsonl(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def batch_runner(app: FastAPI, answer: AnswerBody | None = None, *, sleep: Sleep = asyncio.sleep) -> JobRunner:
    """A runner of the application's batches alone. answer: of a line, by default the application's own."""
    context = app.state.context
    return JobRunner(context, [BatchJobs], answer or partial(run_body, context), sleep=sleep)


@contextlib.asynccontextmanager
async def batches_run(
    app: FastAPI, answer: AnswerBody | None = None, *, sleep: Sleep = asyncio.sleep
) -> AsyncIterator[None]:
    """Run the application's batches within the context."""
    runner = batch_runner(app, answer, sleep=sleep)
    await runner.prepare()
    running = asyncio.create_task(runner.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def ended(client: Any, batch_id: str) -> Any:
    """The batch of the official client, when it has ended."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            batch = await client.batches.retrieve(batch_id)
            if batch.status in ("completed", "failed", "expired", "cancelled"):
                return batch
            await asyncio.sleep(0.01)
