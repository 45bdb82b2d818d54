"""finish: a job whose adapter is complete has succeeded: the adapter answers, and the results are a file."""

import asyncio
import logging
from pathlib import Path
from sqlite3 import Connection

from engine.command_io.finetuning.events import JobEvent
from server.errors import StorageFailed, StorageFull
from server.files import table as file_table
from server.files.disk import Disk
from server.files.store import new_file_id
from server.files.table import File
from server.finetuning.jobs.journal import Journal
from server.finetuning.jobs.record import FinetuneRecord
from server.finetuning.jobs.settled import settled
from server.finetuning.jobs.surroundings import Surroundings, job_folder
from server.schemas.files import FINE_TUNE_RESULTS
from server.schemas.finetune_answers import FinetuneStatus

logger = logging.getLogger(__name__)

_RESULTS_NAME = "step_metrics.csv"  # OpenAI's
_RETRY_S = 5.0


async def finish(journal: Journal, around: Surroundings) -> None:
    """Serve the adapter, and then have the job succeed. Whatever ends the server before, it can be done again.

    If the job does not succeed, because this is canceled or a client stops the job, nothing of it is served or stays
    among the files. Raises EngineStopped.
    """
    record = journal.record
    name = new_file_id()
    around.files.writing.add(name)  # until it has a row
    try:
        if (reason := await around.publisher.publish(record)) is None:
            events = [journal.event(f"New fine-tuned model created: {record.name}")]
        else:
            events = [journal.event(f"The adapter {record.name} is not served: {reason}", level="warn")]
        results = await asyncio.to_thread(_contents, job_folder(around, record).results)
        file = None
        try:
            file = await _stored(around, name, results, record.owner, journal.now_s)
        except StorageFull as error:  # an adapter is worth more than its curves
            events.append(journal.event(f"There is no results file: {error}", level="warn"))
        await _succeed(journal, events, file)
    finally:
        if journal.record.status is not FinetuneStatus.SUCCEEDED:
            around.publisher.withdraw(record)
        if name not in journal.record.result_files:
            await settled(around.files.remove([name]))
        around.files.writing.discard(name)


async def _stored(around: Surroundings, name: str, results: bytes, owner: str, now_s: float) -> File:
    """The results on the disk, of which a row makes a file. Raises StorageFull."""
    files = around.files
    while True:
        try:
            await files.database.run(lambda connection: files.check_room(connection, len(results)))
            await settled(files.on_disk(_write, files.disk, name, results))
            return File(name, owner, FINE_TUNE_RESULTS, _RESULTS_NAME, len(results), int(now_s), None)
        except StorageFull:
            raise
        except StorageFailed as error:
            logger.warning("the results of a fine-tuning job cannot be stored now: %s", error)
            await around.sleep(_RETRY_S)


def _write(disk: Disk, name: str, content: bytes) -> None:
    """Returns when the file survives a power cut. Raises OSError."""
    disk.create(name)
    disk.write(name, 0, content)
    disk.sync(name)
    disk.sync_names()


async def _succeed(journal: Journal, events: list[JobEvent], file: File | None) -> None:
    def edit(record: FinetuneRecord) -> None:
        record.result_files = [] if file is None else [file.id]
        record.enter(FinetuneStatus.SUCCEEDED, journal.now_s)

    def beside(connection: Connection) -> None:
        if file is not None:
            file_table.insert(connection, file)

    events = [*events, journal.event("The job has successfully completed")]
    if await journal.change(FinetuneStatus.RUNNING, edit, events, beside=beside):
        logger.info("fine-tuning job %s has succeeded: %s", journal.record.id, journal.record.name)


def _contents(path: Path) -> bytes:
    """Empty if there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
