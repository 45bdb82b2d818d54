"""A data folder as the last version left it, killed amid its work: it opens, and its jobs continue."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from engine.config import EngineConfig
from server.app import create_app
from server.config.server import ServerConfig
from server.keys.caller import name_owner
from server.metrics.values import Metrics
from server.schemas.finetuning_answers import FinetuningStatus
from server.store.opening import open_store
from server.text.chat_templates.direct_templates import DirectTemplates
from tests.helpers.batches import batches_run, read_jsonl
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, http
from tests.helpers.fake_trainer import (
    NUM_STEPS,
    FakeChildren,
    ask,
    events_of,
    finetuning_runs,
    stored,
    trained_client,
    until_status,
    whole_adapter,
)
from tests.helpers.keys import bearer, entry, write_keys
from tests.helpers.repository import ROOT

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("in_no_time")]

_FIXTURE = ROOT / "tests/fixtures/data_folder"
_MADE_S = 1796058600  # when the last version was killed


@pytest.fixture
def keys_file() -> str | None:
    return None


@pytest.fixture
def app(tmp_path: Path, keys_file: str | None) -> Iterator[FastAPI]:
    """A server on the last version's data folder."""
    for name, content in json.loads((_FIXTURE / "files.json").read_text()).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    with contextlib.closing(sqlite3.connect(tmp_path / "headrace.sqlite3")) as connection:
        connection.executescript((_FIXTURE / "headrace.sql").read_text())
    config = ServerConfig(data_dir=str(tmp_path), api_keys_file=keys_file)
    engine = EngineConfig(model=MODEL, enable_lora=True)
    with open_store(config) as store:
        app = create_app(trained_client(), config, engine, Metrics(MODEL), store, templates=DirectTemplates())
        app.state.context.files.clock = lambda: float(_MADE_S)
        yield app


async def _batches(app: FastAPI) -> dict[str, dict[str, object]]:
    """The batches by their names."""
    async with http(app) as client:
        page = (await client.get("/v1/batches")).json()
    return {batch["metadata"]["name"]: batch for batch in page["data"]}


async def test_batches_continue_and_each_line_is_answered_once(app: FastAPI) -> None:
    ids = {name: batch["id"] for name, batch in (await _batches(app)).items()}
    assert list(ids) == ["canceled", "new", "running", "ended"]
    async with batches_run(app), asyncio.timeout(DEADLINE_S):
        while any(batch["status"] not in ("completed", "cancelled") for batch in (await _batches(app)).values()):
            await asyncio.sleep(0.01)
    batches = await _batches(app)
    assert {name: batch["id"] for name, batch in batches.items()} == ids
    assert {name: batch["status"] for name, batch in batches.items()} == {
        "canceled": "cancelled",
        "new": "completed",
        "running": "completed",
        "ended": "completed",
    }
    async with http(app) as client:
        for name, count in (("canceled", 2), ("new", 3), ("running", 6), ("ended", 2)):
            parts = [batches[name][f"{kind}_file_id"] for kind in ("output", "error")]
            contents = [(await client.get(f"/v1/files/{each}/content")).content for each in parts if each is not None]
            answered = [line["custom_id"] for content in contents for line in read_jsonl(content)]
            assert sorted(answered) == [f"{name}-{number}" for number in range(count)]
    output = read_jsonl(contents[0])
    assert output[0]["response"]["body"]["echo"] == "ended 0"


async def test_fine_tuning_jobs_continue(app: FastAPI) -> None:
    context = app.state.context
    first = [f"Step {number}" for number in range(1, NUM_STEPS + 1)]
    async with finetuning_runs(app, FakeChildren()):
        served = [adapter.name for adapter in context.models.adapters]
        assert served[:4] == [
            *("ft:tiny:headrace::1:ckpt-step-3", "ft:tiny:headrace::1:ckpt-step-6", "ft:tiny:headrace::1"),
            "ft:tiny:headrace::3:ckpt-step-3",
        ]
        for job_id in ("ftjob-3", "ftjob-4", "ftjob-5"):
            await until_status(app, job_id, FinetuningStatus.SUCCEEDED)
        assert (await stored(app, "ftjob-2")).status is FinetuningStatus.PAUSED
        await ask(app, "ftjob-2", FinetuningStatus.QUEUED)
        await until_status(app, "ftjob-2", FinetuningStatus.SUCCEEDED)
    for number in range(1, 6):
        folder = Path(context.config.data_dir) / "fine-tuning" / f"ftjob-{number}"
        assert json.loads((folder / "adapter_model.safetensors").read_text()) == whole_adapter()
        assert [each for each in await events_of(app, f"ftjob-{number}") if each.startswith("Step ")] == first


class TestWithKeys:
    """The last version had no keys."""

    @pytest.fixture
    def keys_file(self, tmp_path: Path) -> str:
        gone = entry("gone", admin=True, expires="2026-01-05T00:00:00Z")
        admins = (gone, entry("root", admin=True), entry("boss", admin=True))
        return write_keys(tmp_path / "keys", entry("ann"), *admins)

    async def test_its_fine_tuning_jobs_belong_to_the_first_admin_key_and_continue(self, app: FastAPI) -> None:
        async with finetuning_runs(app, FakeChildren()), http(app, **bearer("root")) as root:
            await until_status(app, "ftjob-3", FinetuningStatus.SUCCEEDED)
            assert len((await root.get("/v1/fine_tuning/jobs")).json()["data"]) == 5
        async with http(app, **bearer("boss")) as other:
            assert (await other.get("/v1/fine_tuning/jobs")).json()["data"] == []

    async def test_a_request_key_that_the_admin_has_used_is_forgotten(self, app: FastAPI, tmp_path: Path) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "headrace.sqlite3")) as connection, connection:
            connection.execute("UPDATE finetune_jobs SET request_key = 'k' WHERE id = 'ftjob-1'")
            connection.execute(
                "UPDATE finetune_jobs SET request_key = 'k', owner = ? WHERE id = 'ftjob-2'", (name_owner("root"),)
            )
        async with finetuning_runs(app, FakeChildren()), http(app, **bearer("root")) as root:
            assert len((await root.get("/v1/fine_tuning/jobs")).json()["data"]) == 5

    async def test_its_batches_belong_to_the_first_admin_key_and_continue(self, app: FastAPI) -> None:
        async with batches_run(app), http(app, **bearer("root")) as root, asyncio.timeout(DEADLINE_S):
            listed = (await root.get("/v1/batches")).json()["data"]
            assert [batch["metadata"]["name"] for batch in listed] == ["canceled", "new", "running", "ended"]
            while any(batch["status"] not in ("completed", "cancelled") for batch in listed):
                await asyncio.sleep(0.01)
                listed = (await root.get("/v1/batches")).json()["data"]
            output = await root.get(f"/v1/files/{listed[1]['output_file_id']}/content")
            assert len(read_jsonl(output.content)) == 3
        for name in ("ann", "boss"):
            async with http(app, **bearer(name)) as other:
                assert (await other.get("/v1/batches")).json()["data"] == []
                assert (await other.get("/v1/files")).json()["data"] == []
