"""Folders of jobs: where they are, also after --data-dir was moved, and what is left of them after a job's end."""

from pathlib import Path

import msgspec
import pytest

from server.finetuning.jobs.folders import clean_up, found_path, out_folder, stored_path
from server.finetuning.jobs.record import FinetuningCheckpoint, FinetuningRecord
from server.schemas.finetuning_answers import FinetuningStatus

pytestmark = pytest.mark.fast

ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
RECORD = FinetuningRecord(
    id="ftjob-1",
    owner="me",
    created_at=1,
    model="tiny",
    base_model="tiny",
    training_file="file-1",
    name="ft:tiny:headrace::1",
    checkpoints=[FinetuningCheckpoint(step=3, created_at=1)],
)


def test_what_is_within_the_data_folder_is_found_where_that_is_now(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    adapter = out_folder(str(before), "ftjob-1")
    adapter.mkdir(parents=True)
    stored = stored_path(str(before), str(adapter))
    before.rename(after)

    assert found_path(str(after), stored) == str(out_folder(str(after), "ftjob-1"))
    assert Path(found_path(str(after), stored)).is_dir()


def test_what_is_elsewhere_stays_there(tmp_path: Path) -> None:
    elsewhere = tmp_path / "adapters" / "sql"
    stored = stored_path(str(tmp_path / "data"), str(elsewhere))
    assert found_path(str(tmp_path / "moved"), stored) == str(elsewhere)


def test_a_data_folder_that_is_a_link_is_the_folder_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    stored = stored_path(str(tmp_path / "data"), str(tmp_path / "disk" / "adapter"))
    assert stored == "adapter"


def _left(data_dir: Path, record: FinetuningRecord) -> set[str]:
    """After a clean-up of a folder with all that can be in one: the files, by their paths."""
    out = out_folder(str(data_dir), record.id)
    for folder in (out, out / "checkpoints" / "step-3", out / "checkpoints" / "step-6"):
        folder.mkdir(parents=True)
        for name in ADAPTER:
            (folder / name).touch()
    (out / "adapter_model.safetensors.partial").touch()
    (out / "job" / "start").mkdir(parents=True)
    for name in ("job.json", "state.safetensors", "events.jsonl", "start/adapter_config.json"):
        (out / "job" / name).touch()
    clean_up(str(data_dir), record)
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


_CHECKPOINT = {f"checkpoints/step-3/{name}" for name in ADAPTER}


@pytest.mark.parametrize("status", [FinetuningStatus.CANCELLED, FinetuningStatus.FAILED])
def test_a_job_that_did_not_succeed_leaves_the_checkpoints_that_clients_know(
    tmp_path: Path, status: FinetuningStatus
) -> None:
    record = msgspec.structs.replace(RECORD, status=status)
    assert _left(tmp_path, record) == {"job/events.jsonl", *_CHECKPOINT}


def test_a_job_that_succeeded_leaves_its_adapter_too(tmp_path: Path) -> None:
    record = msgspec.structs.replace(RECORD, status=FinetuningStatus.SUCCEEDED)
    assert _left(tmp_path, record) >= {"job/events.jsonl", *_CHECKPOINT, *ADAPTER}


def test_what_a_deletion_could_not_delete_is_deleted(tmp_path: Path) -> None:
    record = msgspec.structs.replace(RECORD, status=FinetuningStatus.SUCCEEDED, is_deleted=True, checkpoints=[])
    assert _left(tmp_path, record) == {"job/events.jsonl"}


def test_a_job_without_a_folder_is_nothing(tmp_path: Path) -> None:
    clean_up(str(tmp_path), RECORD)
    assert list(tmp_path.iterdir()) == []
