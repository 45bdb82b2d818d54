"""clean_up: a job that has ended leaves its adapters, and what tells how they came about; the rest is deleted."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from server.finetuning.jobs.folders import checkpoint_folder, out_folder
from server.finetuning.jobs.record import FinetuneRecord

logger = logging.getLogger(__name__)

# What stays of a job's own folder. Its examples are its owner's, and its state is large.
_KEPT = frozenset({"report.json", "results.csv", "events.jsonl", "loss.png", "reward.png", "lock"})


def clean_up(data_dir: str, record: FinetuneRecord) -> None:
    """Delete what the job, which has ended, needs no more. What cannot be deleted is tried again at the next start.
    Blocks."""
    for path in _leftovers(data_dir, record):
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("what is left of a fine-tuning job could not be deleted: %s", error)


def _leftovers(data_dir: str, record: FinetuneRecord) -> Iterator[Path]:
    out = out_folder(data_dir, record.id)
    yield from (path for path in (out / "job").glob("*") if path.name not in _KEPT)
    if not record.has_adapter:  # of a job that was stopped or deleted since its trainer wrote it
        yield from out.glob("adapter_*")
    known = {checkpoint_folder(data_dir, record.id, each.step) for each in record.checkpoints}
    yield from (path for path in (out / "checkpoints").glob("*") if path not in known)
