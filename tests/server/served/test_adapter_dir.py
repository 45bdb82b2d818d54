"""Paths below a folder: where they lead, and which ones lead out or nowhere."""

import contextlib
from pathlib import Path

import pytest

from server.served.adapter_dir import OutsideFolder, resolve_inside

pytestmark = pytest.mark.fast


def test_a_path_below_the_folder_is_its_real_place(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert (
        resolve_inside(tmp_path, "link") == resolve_inside(tmp_path, str(tmp_path / "a")) == (tmp_path / "a").resolve()
    )


@pytest.mark.parametrize("given", ["..", ".", "/etc", "a\0b", "a" * 300, "a/" * 5000])
def test_what_is_no_path_below_the_folder_is_outside(tmp_path: Path, given: str) -> None:
    with pytest.raises(OutsideFolder):
        resolve_inside(tmp_path, given)


def test_a_link_to_itself_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with contextlib.suppress(OutsideFolder):  # Python 3.13 follows links no further, 3.11 refuses
        assert not resolve_inside(tmp_path, "loop").exists()


def test_a_folder_that_cannot_be_listed_is_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()

    def iterdir(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)  # root may list everything
    with pytest.raises(OutsideFolder):
        resolve_inside(tmp_path, "a")
