"""Adapters of jobs under their names: at once where the model is loaded, with the model where it is not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from engine.client.interface import EngineState
from engine.errors import AdapterUnusable
from server.finetuning.jobs.publisher import Publisher
from server.finetuning.jobs.record import FinetuneRecord
from server.served.resident import ModelState, Resident
from tests.helpers.deadline import until
from tests.helpers.fake_client import MODEL, make_app
from tests.helpers.fake_trainer import no_time, trained_client

pytestmark = pytest.mark.fast

RECORD = FinetuneRecord(
    id="ftjob-1",
    owner="me",
    created_at=1,
    model=MODEL,
    base_model=MODEL,
    training_file="file-1",
    name="ft:tiny:headrace::1",
)


class _Residence:
    """Of a model in one state; counts who uses it."""

    def __init__(self, state: ModelState) -> None:
        self._resident = Resident(MODEL, 0, 10)
        self._resident.state = state
        self.num_users, self.num_entered = 0, 0

    def resident(self, _name: str) -> Resident:
        return self._resident

    async def enter(self, _name: str, *, is_batch: bool = False) -> None:  # noqa: ARG002
        self.num_users += 1
        self.num_entered += 1

    def leave(self, _name: str, *, is_batch: bool = False) -> None:  # noqa: ARG002
        self.num_users -= 1


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    return make_app(trained_client(), enable_lora=True, data_dir=str(tmp_path))


def _publisher(app: FastAPI) -> Publisher:
    context = app.state.context
    return Publisher(context.models, context.config.data_dir, sleep=no_time)


def _served(app: FastAPI) -> dict[str, Any]:
    return {each.name: each for each in app.state.context.models.adapters}


async def test_an_adapter_is_served_at_once(app: FastAPI) -> None:
    assert await _publisher(app).publish(RECORD) is None
    adapter = _served(app)[RECORD.name]
    assert adapter.info is not None
    assert (adapter.owner, adapter.base_name) == ("me", MODEL)


async def test_a_checkpoint_has_a_name_of_its_own(app: FastAPI) -> None:
    assert await _publisher(app).publish(RECORD, 5) is None
    assert _served(app)[f"{RECORD.name}:ckpt-step-5"].path.endswith("ftjob-1/checkpoints/step-5")


async def test_a_model_that_is_not_loaded_gets_it_later(app: FastAPI) -> None:
    model = app.state.context.models.default
    model.residence = residence = _Residence(ModelState.UNLOADED)
    assert await _publisher(app).publish(RECORD) is None
    assert _served(app)[RECORD.name].info is None
    assert residence.num_entered == 0
    await app.state.context.models.adapters.check_all(model)
    assert _served(app)[RECORD.name].info is not None


async def test_a_loaded_model_stays_so_meanwhile(app: FastAPI) -> None:
    model = app.state.context.models.default
    model.residence = residence = _Residence(ModelState.LOADED)
    assert await _publisher(app).publish(RECORD) is None
    assert (residence.num_entered, residence.num_users) == (1, 0)


async def test_an_engine_that_starts_again_is_waited_for(app: FastAPI) -> None:
    client = app.state.context.models.default.client
    client.state = EngineState.LOADING
    publishing = asyncio.create_task(_publisher(app).publish(RECORD))
    await asyncio.sleep(0)
    assert not publishing.done()
    client.state = EngineState.READY
    await until(publishing.done)
    assert publishing.result() is None


async def test_an_adapter_that_the_engine_refuses_is_not_served(app: FastAPI) -> None:
    app.state.context.models.default.client.adapters["ftjob-1"] = AdapterUnusable("rank 64 is above --max-lora-rank 16")
    assert await _publisher(app).publish(RECORD) == "rank 64 is above --max-lora-rank 16"
    assert _served(app) == {}


async def test_an_adapter_that_is_withdrawn_is_not_served(app: FastAPI) -> None:
    publisher = _publisher(app)
    await publisher.publish(RECORD)
    publisher.withdraw(RECORD)
    publisher.withdraw(RECORD)  # which is nothing
    assert _served(app) == {}
