"""What a job has trained is for its own key, for operators, and for keys that name it."""

from pathlib import Path

import pytest
from fastapi import FastAPI

from server.keys.caller import name_owner
from tests.helpers.fake_client import MODEL, http, make_app
from tests.helpers.fake_trainer import FakeChildren, add_job, finetuning_runs, trained_client, until_status
from tests.helpers.keys import bearer, entry, write_keys
from tests.server.finetuning.jobs.test_kind import ENDED

pytestmark = pytest.mark.fast

NAME = "ft:tiny:headrace::1"


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    keys = write_keys(
        tmp_path / "keys",
        entry("ann", models=[MODEL]),
        entry("bob"),
        entry("eve", models=[MODEL, NAME]),
        entry("root", admin=True),
    )
    return make_app(trained_client(), enable_lora=True, data_dir=str(tmp_path), api_keys_file=keys)


async def _names(app: FastAPI, key: str) -> set[str]:
    async with http(app, **bearer(key)) as client:
        return {each["id"] for each in (await client.get("/v1/models")).json()["data"]}


async def test_other_keys_do_not_see_it_unless_they_name_it(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1, owner=name_owner("ann"))
        await until_status(app, job.id, *ENDED)
        checkpoints = {f"{NAME}:ckpt-step-3", f"{NAME}:ckpt-step-6"}
        assert await _names(app, "ann") == {MODEL, NAME, *checkpoints}
        assert await _names(app, "root") == {MODEL, NAME, *checkpoints}
        assert await _names(app, "bob") == {MODEL}
        assert await _names(app, "eve") == {MODEL, NAME}


async def test_its_key_and_operators_delete_it(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1, owner=name_owner("ann"))
        await until_status(app, job.id, *ENDED)
        path = f"/v1/models/{NAME}"
        for key in ("bob", "eve"):
            async with http(app, **bearer(key)) as client:
                assert (await client.delete(path)).status_code == 403
        async with http(app, **bearer("ann")) as client:
            assert (await client.delete(path)).json() == {"id": NAME, "object": "model", "deleted": True}
            assert (await client.delete(path)).status_code == 403
        async with http(app, **bearer("root")) as client:
            assert (await client.delete(path)).status_code == 404
            assert (await client.delete(f"{path}:ckpt-step-3")).status_code == 200
