"""Folders of fine-tuning jobs: paths of adapters, checkpoints and the trainer's files, and their deletion.

DATA_DIR/fine-tuning/JOB/ the adapter DATA_DIR/fine-tuning/JOB/checkpoints/ the adapter after each epoch
DATA_DIR/fine-tuning/JOB/job/ the JobFolder, with the trainer's files
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from sqlite3 import Connection

from engine.command_io.finetuning.job import JobFolder
from server.context import ServerContext
from server.finetuning.adapter_files import ADAPTER_FILES
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS, named

logger = logging.getLogger(__name__)

_ROOT = "fine-tuning"
# Files of a JobFolder that are kept. The examples are their owner's, and the state is large.
_KEPT = frozenset({"report.json", "data_report.json", "results.csv", "events.jsonl", "loss.svg", "reward.svg", "lock"})


def root_folder(data_dir: str) -> Path:
    """Return the folder with one folder for each job, named by job id. It may not exist yet."""
    return Path(data_dir).resolve() / _ROOT


def out_folder(data_dir: str, job_id: str) -> Path:
    """Return the folder of the job's adapter. The path is not stored in the database, since --data-dir may be moved."""
    return root_folder(data_dir) / job_id


def job_folder(data_dir: str, job_id: str) -> JobFolder:
    return JobFolder(out_folder(data_dir, job_id) / "job")


def checkpoint_folder(data_dir: str, job_id: str, step: int) -> Path:
    """Return the folder of the checkpoint written at `step`, the last step of an epoch."""
    return out_folder(data_dir, job_id) / "checkpoints" / f"step-{step}"


def stored_path(data_dir: str, path: str) -> str:
    """Return the path in its stored form: relative to --data-dir if it is inside."""
    root, absolute = Path(data_dir).resolve(), Path(path).resolve()
    return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else str(absolute)


def found_path(data_dir: str, stored: str) -> str:
    """Return the path for the stored form that `stored_path` returned."""
    return str(Path(data_dir).resolve() / stored)


def job_ids(data_dir: str) -> set[str]:
    """Return the ids of all jobs that have a folder."""
    root = root_folder(data_dir)
    return {path.name for path in root.iterdir()} if root.exists() else set()


# --- deletion --------------------------------------------------------------------------------------------------------


def clean_up(data_dir: str, record: FinetuningRecord) -> None:
    """Delete the files of an ended job, except its adapters, events and reports. Failed deletions are retried at the
    next start. Blocks."""
    _delete(_leftovers(data_dir, record))


def _leftovers(data_dir: str, record: FinetuningRecord) -> Iterator[Path]:
    out = out_folder(data_dir, record.id)
    yield from (path for path in (out / "job").glob("*") if path.name not in _KEPT)
    if not record.has_adapter:  # the job was stopped or deleted since its trainer wrote the adapter
        yield from out.glob("adapter_*")
    known = {checkpoint_folder(data_dir, record.id, each.step) for each in record.checkpoints}
    yield from (path for path in (out / "checkpoints").glob("*") if path not in known)


async def delete_adapter(context: ServerContext, name: str, check: Callable[[FinetuningRecord], None]) -> bool:
    """Delete a job's adapter or checkpoint by name; return False if there is none. Running requests finish with it.

    check: gets the job's record, and raises if the caller may not delete the adapter. Raises StorageFailed.
    """
    data_dir = context.config.data_dir
    if data_dir is None:
        return False

    def work(connection: Connection) -> tuple[FinetuningRecord, int | None] | None:
        found = named(connection, name)
        if found is None:
            return None
        record, step = found
        check(record)

        def edit(record: FinetuningRecord) -> None:
            record.checkpoints = [each for each in record.checkpoints if each.step != step]
            record.is_deleted = record.is_deleted or step is None

        FINETUNING_JOBS.change(connection, record.id, edit)
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
    await asyncio.to_thread(_delete, paths)
    return True


def _delete(paths: Iterable[Path]) -> None:
    """Delete files and folders; log failures. The table no longer names them, so leftovers are never served."""
    for path in paths:
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("%s of a fine-tuning job could not be deleted: %s", path, error)
