"""delete_adapter: what a job has made is served no more, and its files are gone."""

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection

from server.context import ServerContext
from server.finetuning.adapter_files import ADAPTER_FILES
from server.finetuning.jobs import table
from server.finetuning.jobs.folders import checkpoint_folder, out_folder
from server.finetuning.jobs.record import FinetuneRecord

logger = logging.getLogger(__name__)


async def delete_adapter(context: ServerContext, name: str, check: Callable[[FinetuneRecord], None]) -> bool:
    """Delete a job's adapter, or that of one of its checkpoints; False if no job has it. Requests that have it go on
    with it.

    check: raises if the caller may not, and is given the job. Raises StorageFailed.
    """
    data_dir = context.config.data_dir
    if data_dir is None:
        return False

    def work(connection: Connection) -> tuple[FinetuneRecord, int | None] | None:
        found = table.named(connection, name)
        if found is None:
            return None
        record, step = found
        check(record)

        def edit(record: FinetuneRecord) -> None:
            record.checkpoints = [each for each in record.checkpoints if each.step != step]
            record.is_deleted = record.is_deleted or step is None

        table.change(connection, record.id, edit)
        return found

    found = await context.files.database.run(work, is_durable=True)
    if found is None:
        return False
    record, step = found
    adapters = context.models.adapters
    if adapters.get(name) is not None:
        adapters.remove(name, context.models.get_or_default(record.base_model))
    if step is None:
        folder = out_folder(data_dir, record.id)
        paths = [folder / each for each in ADAPTER_FILES]
    else:
        paths = [checkpoint_folder(data_dir, record.id, step)]
    await asyncio.to_thread(_remove, paths)
    return True


def _remove(paths: list[Path]) -> None:
    """What cannot be removed is nobody's any more: its name is gone."""
    for path in paths:
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s could not be deleted: %s", path, error)
