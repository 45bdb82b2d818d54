"""The table of fine-tuning jobs: what is stored comes back, for its owner, in order; events are numbered."""

from collections.abc import Iterator
from sqlite3 import Connection
from typing import Any

import pytest

from engine.command_io.finetuning.events import JobEvent
from engine.command_io.finetuning.job import Hyperparameters, Schedule, TrainingMethod
from server.finetuning.jobs import table
from server.finetuning.jobs.record import FinetuningCheckpoint, FinetuningRecord, Resolved
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.schemas.finetuning_answers import FinetuningError, FinetuningStatus
from server.store.database import Database, memory_database

pytestmark = pytest.mark.fast


@pytest.fixture
def database() -> Iterator[Database]:
    database = memory_database()
    yield database
    database.close()


def _record(number: int, owner: str = "me", **changes: Any) -> FinetuningRecord:
    return FinetuningRecord(
        **{
            "id": f"ftjob-{number}",
            "owner": owner,
            "created_at": number,
            "model": "base",
            "base_model": "base",
            "training_file": f"file-{number}",
            "name": f"ft:base:headrace::{number}",
            **changes,
        }
    )


async def _insert(database: Database, *records: FinetuningRecord) -> None:
    def work(connection: Connection) -> None:
        for record in records:
            table.insert_job(connection, record)

    await database.run(work)


async def test_a_job_comes_back_as_it_was(database: Database) -> None:
    record = _record(
        1,
        method=TrainingMethod.DPO,
        hyperparameters=Hyperparameters(n_epochs=3, beta=0.2, schedule=Schedule.COSINE, target_modules=["q_proj"]),
        seed=7,
        validation_file="file-v",
        start="/adapters/a",
        suffix="demo",
        metadata={"a": "b"},
        status=FinetuningStatus.FAILED,
        is_prepared=True,
        resolved=Resolved(n_epochs=3, batch_size=4, learning_rate=2e-4, lora_rank=8, total_steps=24, beta=0.2),
        checkpoints=[FinetuningCheckpoint(step=8, created_at=5, metrics={"train_loss": 0.5})],
        error=FinetuningError("invalid_training_file", "line 3: no", "training_file"),
        result_files=["file-r"],
        trained_tokens=12,
        started_at=3,
        finished_at=9,
        events_bytes=44,
    )
    await _insert(database, record)
    assert await database.run(lambda connection: FINETUNING_JOBS.find(connection, record.id, "me")) == record
    assert await database.run(lambda connection: FINETUNING_JOBS.find(connection, record.id)) == record
    assert await database.run(lambda connection: FINETUNING_JOBS.find(connection, record.id, "other")) is None
    assert await database.run(lambda connection: FINETUNING_JOBS.find(connection, "ftjob-none")) is None


async def _ids(database: Database, **query: Any) -> tuple[list[str], bool]:
    given = {"owner": "me", "after": None, "limit": 10, **query}
    page = await database.run(lambda connection: table.jobs_page(connection, **given))
    assert page is not None
    return [record.id for record in page[0]], page[1]


async def test_jobs_are_listed_in_pages_the_newest_first(database: Database) -> None:
    await _insert(database, *(_record(number) for number in range(5)), _record(5, "other"))
    assert await _ids(database, limit=2) == (["ftjob-4", "ftjob-3"], True)
    assert await _ids(database, limit=2, after="ftjob-3") == (["ftjob-2", "ftjob-1"], True)
    assert await _ids(database, limit=2, after="ftjob-1") == (["ftjob-0"], False)
    assert await database.run(lambda connection: table.jobs_page(connection, "me", "ftjob-5", 2)) is None


async def test_jobs_are_found_by_their_metadata(database: Database) -> None:
    quoted = {'a"b.$[0]': "it's", "x": ""}
    await _insert(
        database,
        _record(0),
        _record(1, metadata={}),
        _record(2, metadata={"team": "red", "x": "1"}),
        _record(3, metadata={"team": "red"}),
        _record(4, metadata=quoted),
    )
    assert await _ids(database, metadata={"team": "red"}) == (["ftjob-3", "ftjob-2"], False)
    assert await _ids(database, metadata={"team": "red", "x": "1"}) == (["ftjob-2"], False)
    assert await _ids(database, metadata={"team": "re"}) == ([], False)
    assert await _ids(database, metadata=quoted, after="ftjob-4") == ([], False)
    assert await _ids(database, metadata=quoted) == (["ftjob-4"], False)
    assert await _ids(database, has_no_metadata=True) == (["ftjob-0"], False)


async def test_a_change_is_stored_with_its_status(database: Database) -> None:
    await _insert(database, _record(1), _record(2), _record(3, "other"))
    changed = await database.run(
        lambda connection: FINETUNING_JOBS.change(
            connection, "ftjob-1", lambda each: each.enter(FinetuningStatus.CANCELLED, 9.5)
        )
    )
    assert changed is not None
    assert (changed.status, changed.finished_at) == (FinetuningStatus.CANCELLED, 9)
    assert await database.run(lambda connection: FINETUNING_JOBS.find(connection, "ftjob-1")) == changed
    assert [each.id for each in await database.run(FINETUNING_JOBS.active)] == ["ftjob-2", "ftjob-3"]
    assert await database.run(lambda connection: FINETUNING_JOBS.num_active(connection, "me")) == 1
    by_status = await database.run(FINETUNING_JOBS.by_status)
    assert {status: count for status, count in by_status.items() if count} == {"cancelled": 1, "validating_files": 2}
    assert set(by_status) == set(FinetuningStatus)
    assert await database.run(lambda connection: FINETUNING_JOBS.change(connection, "ftjob-0", lambda _: None)) is None


async def test_files_are_in_use_until_the_job_has_ended(database: Database) -> None:
    await _insert(database, _record(1, validation_file="file-v"))
    for file_id in ("file-1", "file-v"):
        reason = await database.run(lambda connection, file_id=file_id: FINETUNING_JOBS.use_of(connection, file_id))  # type: ignore[misc]
        assert reason is not None
        assert "ftjob-1" in reason
        assert "validating_files" in reason
    await database.run(
        lambda connection: FINETUNING_JOBS.change(
            connection, "ftjob-1", lambda each: each.enter(FinetuningStatus.SUCCEEDED, 1)
        )
    )
    assert await database.run(lambda connection: FINETUNING_JOBS.use_of(connection, "file-1")) is None


async def test_a_job_is_found_by_the_names_that_it_has_published(database: Database) -> None:
    done = _record(1, status=FinetuningStatus.SUCCEEDED, checkpoints=[FinetuningCheckpoint(step=8, created_at=1)])
    begun = _record(2, status=FinetuningStatus.RUNNING)
    await _insert(database, done, begun)
    assert await database.run(lambda connection: table.named(connection, done.name)) == (done, None)
    assert await database.run(lambda connection: table.named(connection, done.checkpoint_name(8))) == (done, 8)
    assert await database.run(lambda connection: table.named(connection, done.checkpoint_name(9))) is None
    assert await database.run(lambda connection: table.named(connection, "ft:base:headrace::3")) is None
    assert await database.run(table.with_adapters) == [done]


async def test_events_are_numbered_and_paged(database: Database) -> None:
    await _insert(database, _record(1), _record(2))
    events = [JobEvent(created_at=float(number), message=f"event {number}") for number in range(5)]
    await database.run(lambda connection: FINETUNING_JOBS.add_events(connection, "ftjob-1", events[:2]))
    await database.run(lambda connection: FINETUNING_JOBS.add_events(connection, "ftjob-2", events[:1]))
    await database.run(lambda connection: FINETUNING_JOBS.add_events(connection, "ftjob-1", events[2:]))
    found, has_more = await database.run(lambda connection: FINETUNING_JOBS.events_page(connection, "ftjob-1", None, 3))
    assert ([each.number for each in found], has_more) == ([5, 4, 3], True)
    assert [each.event for each in found] == events[:1:-1]
    found, has_more = await database.run(lambda connection: FINETUNING_JOBS.events_page(connection, "ftjob-1", 3, 3))
    assert ([each.number for each in found], has_more) == ([2, 1], False)


async def test_a_request_is_found_by_its_key(database: Database) -> None:
    record = _record(1)
    await database.run(lambda connection: table.insert_job(connection, record, ("key", "digest")))
    await _insert(database, _record(2), _record(3))
    assert await database.run(lambda connection: table.made_by(connection, "me", "key")) == (record, "digest")
    assert await database.run(lambda connection: table.made_by(connection, "other", "key")) is None
