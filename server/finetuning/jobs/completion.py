"""finish: ends a job whose adapter is complete: serves the adapter, and stores the metrics as a results file."""

import logging
from sqlite3 import Connection

from engine.command_io.finetuning.events import JobEvent
from server.errors import StorageFull
from server.files import table as file_table
from server.files.table import File
from server.finetuning.jobs.folders import job_folder
from server.finetuning.jobs.publisher import Publisher
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.stored_files import new_names, remove_unknown, store_copy
from server.finetuning.jobs.table import FinetuningJournal
from server.jobs.environment import JobEnvironment
from server.schemas.files import FINE_TUNE_RESULTS
from server.schemas.finetuning_answers import FinetuningStatus

logger = logging.getLogger(__name__)

_RESULTS_NAME = "step_metrics.csv"  # OpenAI's


async def finish(journal: FinetuningJournal, env: JobEnvironment, publisher: Publisher) -> None:
    """Serve the adapter, store the results file, and set the job to SUCCEEDED. Can be repeated after an interruption.

    If this is canceled, or a client stops the job meanwhile, the adapter is withdrawn and the results file removed.
    Raises EngineStopped if the server is shutting down.
    """
    record = journal.record
    with new_names(env, 1) as names:
        try:
            if (reason := await publisher.publish(record)) is None:
                events = [journal.event(f"New fine-tuned model created: {record.name}")]
            else:
                events = [journal.event(f"The adapter {record.name} is not served: {reason}", level="warn")]
            stored = await store_copy(env, names[0], job_folder(env.data_dir, record.id).results)
            file = None
            if isinstance(stored, StorageFull):  # an adapter is worth more than its curves
                events.append(journal.event(f"There is no results file: {stored}", level="warn"))
            else:
                file = File(names[0], record.owner, FINE_TUNE_RESULTS, _RESULTS_NAME, stored, int(journal.now_s), None)
            await _succeed(journal, events, file)
        finally:
            if journal.record.status is not FinetuningStatus.SUCCEEDED:
                publisher.withdraw(record)
            await remove_unknown(env, journal, names)


async def _succeed(journal: FinetuningJournal, events: list[JobEvent], file: File | None) -> None:
    def edit(record: FinetuningRecord) -> None:
        record.result_files = [*record.result_files, *([] if file is None else [file.id])]
        record.enter(FinetuningStatus.SUCCEEDED, journal.now_s)

    def beside(connection: Connection) -> None:
        if file is not None:
            file_table.insert(connection, file)

    events = [*events, journal.event("The job has successfully completed")]
    if await journal.change(edit, events, status=FinetuningStatus.RUNNING, beside=beside):
        logger.info("fine-tuning job %s has succeeded: %s", journal.record.id, journal.record.name)
