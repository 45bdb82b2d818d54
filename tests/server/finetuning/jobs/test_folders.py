"""Where a job's files are, also after --data-dir was moved."""

from pathlib import Path

import pytest

from server.finetuning.jobs.folders import found_path, out_folder, stored_path

pytestmark = pytest.mark.fast


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
