"""The dashboard in a real browser: jobs, for their owner and for an operator, and the overview of a whole server."""

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from engine.command_io.finetuning.events import JobEvent
from server.batches.record import BATCHES, BatchRecord
from server.finetuning.jobs.record import FinetuningCheckpoint, FinetuningRecord, Resolved
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.schemas.batch_answers import BatchStatus, LineFault
from server.schemas.finetuning_answers import FinetuningStatus
from tests.e2e.conftest import FAST_START
from tests.helpers.fake_client import make_app, says
from tests.helpers.keys import bearer, entry, write_keys
from tests.helpers.repository import ROOT
from tests.helpers.server_process import API_KEY, COMMAND
from tests.integrations.programs import Workplace, npm_program, python_program
from tests.integrations.scripted_server import MODEL, scripted_client, serving

pytestmark = pytest.mark.integrations

_OF_A_SERVER = ("HOME", "HF_HOME", "HEADRACE_CACHE")  # where it finds its model
_TIMEOUT_S = 400.0  # for half a minute, on a machine that has other work


@dataclass(frozen=True, slots=True)
class _Served:
    url: str
    batch: str  # ids of jobs of the key ann
    training: str


def _app(folder: Path) -> FastAPI:
    keys = write_keys(folder / "keys.json", entry("ann"), entry("ben"), entry("root", admin=True))
    client = scripted_client(says("The rooms are 7 and 8."))
    options = {"api_keys_file": keys, "enable_lora": True, "data_dir": str(folder)}
    return make_app(client, served_model_name=(MODEL,), **options)


def _make_training(url: str) -> str:
    """The id of a job of ann's."""
    with httpx.Client(base_url=url, headers=bearer("ann"), trust_env=False) as api:
        file = api.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("rooms.jsonl", b"{}")}).json()
        job = api.post("/v1/fine_tuning/jobs", json={"model": MODEL, "training_file": file["id"], "suffix": "rooms"})
        assert job.status_code == 200, job.text
        return str(job.json()["id"])


async def _let_it_run(app: FastAPI, job_id: str) -> str:
    """Let the training be in its second epoch, and add a batch that was refused; its id."""
    database = app.state.context.files.database
    steps = [
        JobEvent(
            created_at=step,
            message=f"Step {step}/20",
            kind="metrics",
            data={"step": step, "train_loss": 2 / step, **({"full_valid_loss": 2.5 / step} if step % 5 == 0 else {})},
        )
        for step in range(1, 11)
    ]
    more = [
        JobEvent(created_at=20, message="The loss falls", level="warn"),
        *(
            JobEvent(
                created_at=20 + epoch,
                message=f"Sample 1: answer {epoch}",
                data={"sample": 0, "epoch": epoch, "text": f"answer {epoch}", "question": "Which room?"},
            )
            for epoch in (1, 2)
        ),
    ]

    def run(record: FinetuningRecord) -> None:
        record.enter(FinetuningStatus.RUNNING, record.created_at)
        record.resolved = Resolved(n_epochs=4, batch_size=4, learning_rate=2e-4, lora_rank=8, total_steps=20)
        record.step, record.estimated_finish = 10, record.created_at + 7200
        record.checkpoints = [FinetuningCheckpoint(step=5, created_at=record.created_at)]

    await database.run(lambda connection: FINETUNING_JOBS.change(connection, job_id, run))
    await database.run(lambda connection: FINETUNING_JOBS.add_events(connection, job_id, [*steps, *more]))
    training = await database.run(lambda connection: FINETUNING_JOBS.find(connection, job_id))
    batch = BatchRecord(
        id="batch_refused",
        owner=training.owner,
        endpoint="/v1/chat/completions",
        input_file_id="file-x",
        completion_window="24h",
        created_at=training.created_at,
        expires_at=training.created_at + 86400,
        errors=[LineFault("invalid_json", "line 3 is not JSON", 3)],
    )
    batch.enter(BatchStatus.FAILED, training.created_at + 1)
    await database.run(lambda connection: BATCHES.insert(connection, batch))
    return batch.id


@pytest.fixture
def served(tmp_path: Path) -> Iterator[_Served]:
    app = _app(tmp_path)
    with serving(app) as url:
        training = _make_training(url)
        yield _Served(url, asyncio.run(_let_it_run(app, training)), training)


def test_the_jobs(served: _Served, workplace: Workplace, browser: str, tmp_path: Path) -> None:
    python = python_program("playwright", "python")
    axe = npm_program("axe-core", "axe-core", "axe.min.js")
    script = Path(__file__).with_name("browse_jobs.py")
    given = [served.url, browser, axe, tmp_path, served.training, served.batch]
    workplace.run([python, script, *given], timeout_s=_TIMEOUT_S)
    assert {path.stem for path in tmp_path.glob("*.png")} >= {"jobs-phone-dark", "training-phone-dark", "jobs-laptop"}


def test_the_overview(workplace: Workplace, browser: str, tmp_path: Path) -> None:
    python = python_program("playwright", "python")
    axe = npm_program("axe-core", "axe-core", "axe.min.js")
    script = Path(__file__).with_name("browse_overview.py")
    port = _free_port()
    home = [f"{name}={os.environ[name]}" for name in _OF_A_SERVER if name in os.environ]
    command = [
        "env",
        *home,
        f"PYTHONPATH={ROOT}",
        COMMAND,
        "serve",
        "--port",
        str(port),
        "--api-key",
        API_KEY,
        "--data-dir",
        str(tmp_path / "data"),
        *FAST_START,
    ]
    with serving(make_app(scripted_client(says("x")))) as open_url:
        given = [json.dumps(command), f"http://127.0.0.1:{port}", API_KEY, open_url, browser, axe, tmp_path]
        workplace.run([python, script, *given], timeout_s=2 * _TIMEOUT_S)
    assert {path.stem for path in tmp_path.glob("*.png")} >= {"locked", "overview-laptop", "overview-phone-dark"}


def _free_port() -> int:
    """A port that the same server can listen on again after it was killed."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
