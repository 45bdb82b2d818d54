"""Fine-tuning jobs in tests: the official client, whose types answers must be, and a runner that the test plays."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
from fastapi import FastAPI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from pydantic import ValidationError

from engine.command_io.finetuning.events import JobEvent
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS
from tests.helpers.fake_client import MODEL, FakeClient, make_app, says

_TYPES: dict[str, type[openai.BaseModel]] = {
    "fine_tuning.job": FineTuningJob,
    "fine_tuning.job.event": FineTuningJobEvent,
    "fine_tuning.job.checkpoint": FineTuningJobCheckpoint,
}
# Values that OpenAI's own answers have too, or that are ours, and that the client's types lack.
_BESIDE_THE_TYPES = [("status", "paused"), ("method.type", "pretraining")]


def check_types(body: Any) -> int:
    """How many objects of fine-tuning are in the body; each is what the client's types say, with nothing converted."""
    if not isinstance(body, dict):
        return 0
    if body.get("object") == "list":
        return sum(check_types(each) for each in body["data"])
    kind = _TYPES.get(body.get("object", ""))
    if kind is None:
        return 0
    body = _with_one_grader(body)
    try:
        kind.model_validate(body, strict=True)
    except ValidationError as error:
        faults = [(".".join(map(str, each["loc"])), each["input"]) for each in error.errors()]
        assert all(fault in _BESIDE_THE_TYPES for fault in faults), faults
    assert set(kind.model_fields) <= body.keys() | {"dpo", "reinforcement", "supervised"}
    return 1


def _with_one_grader(body: dict[str, Any]) -> dict[str, Any]:
    """The client's type of a multi grader has one grader where the API has several by their names."""
    settings = (body.get("method") or {}).get("reinforcement")
    if not settings or settings["grader"]["type"] != "multi" or "type" in settings["grader"]["graders"]:
        return body
    first, *others = settings["grader"]["graders"].values()
    bodies = [
        {**body, "method": {**body["method"], "reinforcement": {**settings, "grader": grader}}}
        for grader in [*others, {**settings["grader"], "graders": first}]
    ]
    for each in bodies[:-1]:
        assert check_types(each) == 1
    return bodies[-1]


class Runner:
    """The test's hand on the jobs of an application. woken: ids of jobs, in the order of the calls."""

    def __init__(self, app: FastAPI) -> None:
        self.woken: list[str] = []
        self.num_checked = 0  # objects of answers, by `check_types`
        self._context = app.state.context
        self._context.wake_job = self.woken.append

    async def change(self, job_id: str, edit: Callable[[FinetuningRecord], None]) -> FinetuningRecord:
        record = await self._context.files.database.run(
            lambda connection: FINETUNING_JOBS.change(connection, job_id, edit)
        )
        assert record is not None
        return record

    async def record(self, job_id: str) -> FinetuningRecord:
        return await self.change(job_id, lambda _: None)

    async def tell(self, job_id: str, *events: JobEvent) -> None:
        await self._context.files.database.run(
            lambda connection: FINETUNING_JOBS.add_events(connection, job_id, events)
        )

    async def check(self, response: httpx2.Response) -> None:
        """To be called with each response."""
        await response.aread()
        if response.headers.get("content-type") == "application/json":
            self.num_checked += check_types(json.loads(response.content))


@contextlib.asynccontextmanager
async def finetuning_served(
    folder: Path, *, key: str = "none", engine: FakeClient | None = None, **options: Any
) -> AsyncIterator[tuple[openai.AsyncOpenAI, Runner, FastAPI]]:
    """An application with adapters, and the official client before it."""
    folder.mkdir(exist_ok=True)
    given = {"enable_lora": True, "data_dir": str(folder), **options}
    app = make_app(engine or FakeClient(says("Because.")), **given)
    runner = Runner(app)
    async with official(app, key, runner) as client:
        yield client, runner, app


def official(app: FastAPI, key: str, runner: Runner) -> openai.AsyncOpenAI:
    """The official client, which calls the application directly."""
    http = httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://server/v1", event_hooks={"response": [runner.check]}
    )
    return openai.AsyncOpenAI(base_url="http://server/v1", api_key=key, http_client=http, max_retries=0)


async def upload(client: openai.AsyncOpenAI, purpose: Any = "fine-tune", data: bytes = b"{}") -> str:
    """The id of a file."""
    return (await client.files.create(file=("chats.jsonl", data), purpose=purpose)).id


async def create(client: openai.AsyncOpenAI, **more: Any) -> Any:
    """A job, on a new file unless one is given."""
    given = {"model": MODEL, **more}
    if "training_file" not in given:
        given["training_file"] = await upload(client)
    return await client.fine_tuning.jobs.create(**given)
