"""A job as it is stored: what its task knows of it is true, even if the task is canceled while it is stored."""

import asyncio
import threading
from pathlib import Path

import pytest

from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.jobs.journal import Journal
from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.fake_client import make_app
from tests.helpers.fake_trainer import add_job, stored, trained_client

pytestmark = pytest.mark.fast


async def test_a_change_that_is_canceled_while_it_is_stored_is_known(tmp_path: Path) -> None:
    app = make_app(trained_client(), enable_lora=True, data_dir=str(tmp_path))
    record = await add_job(app, 1, status=FinetuningStatus.RUNNING)
    journal = Journal(app.state.context.files, FINETUNING_JOBS, record)
    has_begun, may_end = threading.Event(), threading.Event()

    def edit(stored: FinetuningRecord) -> None:
        has_begun.set()
        assert may_end.wait(DEADLINE_S)
        stored.enter(FinetuningStatus.SUCCEEDED, 2)

    changing = asyncio.create_task(journal.change(edit, status=FinetuningStatus.RUNNING))
    await until(has_begun.is_set)
    changing.cancel()
    await asyncio.sleep(0)
    changing.cancel()  # as a server that ends does
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert journal.record.status is FinetuningStatus.SUCCEEDED
    assert (await stored(app, record.id)).status is FinetuningStatus.SUCCEEDED
