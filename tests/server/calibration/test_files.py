"""Files of calibrations: only one that fits is used, and others with a warning."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.errors import OptionError, StartupError
from server.calibration.calibration import ModelCalibration, Platt, Temperature
from server.calibration.files import Calibrations, merge_calibration, read_calibration, write_calibration
from tests.helpers.calibrations import IDENTITY, calibration

pytestmark = pytest.mark.fast

OTHER = msgspec.structs.replace(IDENTITY, weights="other", wording="2")


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = calibration(predicate=Platt(1.5, -0.25), choice=Temperature(2.5))
    path = write_calibration(written, tmp_path / "new")
    assert path.name == f"{IDENTITY.fingerprint}.json"
    assert len(IDENTITY.fingerprint) == 32
    assert read_calibration(path) == written
    assert [*path.parent.iterdir()] == [path]


def test_each_part_changes_the_fingerprint() -> None:
    changed = [msgspec.structs.replace(IDENTITY, **{name: "x"}) for name in IDENTITY.__struct_fields__]
    assert len({each.fingerprint for each in (IDENTITY, *changed)}) == 5


async def test_the_one_that_fits_is_found_in_the_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_calibration(calibration(), tmp_path)
    found = Calibrations()
    assert await found.find(IDENTITY, str(tmp_path)) == calibration()
    assert await found.find(OTHER, str(tmp_path)) is None
    assert await found.find(None, str(tmp_path)) is None
    assert await Calibrations().find(IDENTITY, None) is None
    assert not caplog.records


@pytest.mark.parametrize("content", [b"{", b"{}", msgspec.json.encode(calibration(OTHER))])
async def test_a_file_in_the_cache_that_does_not_fit_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / f"{IDENTITY.fingerprint}.json").write_bytes(content)
    found = Calibrations()
    for _ in range(2):
        assert await found.find(IDENTITY, str(tmp_path)) is None
    (record,) = caplog.records
    assert "is not used" in record.getMessage()
    assert "headrace calibrate replaces it" in record.getMessage()


async def test_a_given_file_comes_before_the_cache_if_it_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_calibration(calibration(), tmp_path / "cache")
    mine = calibration(predicate=Platt(9.0, 9.0))
    given = Calibrations(str(write_calibration(mine, tmp_path)))
    assert await given.find(IDENTITY, str(tmp_path / "cache")) == mine
    given.check([OTHER, IDENTITY])
    assert not caplog.records
    other = Calibrations(str(write_calibration(calibration(OTHER), tmp_path)))
    assert await other.find(IDENTITY, str(tmp_path / "cache")) == calibration()
    other.check([IDENTITY])
    assert "is not used for what is loaded so far: it was made for tiny, and the weights or their" in caplog.text
    assert "and the wording of questions differ from those that are loaded" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "cannot be read: No such file"),
        ({"kinds": {"box": {}}}, "is not a calibration"),
        ({"created_s": "today"}, "is not a calibration"),
    ],
)
def test_a_given_file_that_cannot_be_used_is_refused(
    tmp_path: Path, change: dict[str, Any] | None, message: str
) -> None:
    path = tmp_path / "c.json"
    if change is not None:
        path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(calibration()), **change}))
    with pytest.raises(OptionError, match=f"--calibration .*{message}"):
        Calibrations(str(path))


def test_a_home_folder_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OptionError, match=r"--calibration ~nosuchuser/x\.json cannot be read: .*home"):
        Calibrations("~nosuchuser/x.json")


def test_fits_must_have_the_form_of_their_kind() -> None:
    for kinds in ({"predicate": Temperature(1.0)}, {"score": Platt(1.0, 0.0)}, {"box": Platt(1.0, 0.0)}):
        with pytest.raises(ValueError, match=r"kind of question|not of its form"):
            calibration(**kinds)
    encoded = msgspec.json.encode(calibration()).replace(b'"platt","slope"', b'"temperature","temperature"')
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(encoded, type=ModelCalibration)


@pytest.mark.parametrize("write", [write_calibration, merge_calibration])
def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path, write: Callable[..., Any]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="set HEADRACE_CACHE to a writable folder"):
        write(calibration(), tmp_path / "file" / "x")


def test_runs_side_by_side_keep_each_others_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice, score = calibration(choice=Temperature(2.0)), calibration(score=Temperature(3.0))
    second = threading.Thread(target=merge_calibration, args=(score, tmp_path))

    def write(merged: ModelCalibration, folder: Path) -> Path:
        monkeypatch.setattr("server.calibration.files.write_calibration", write_calibration)
        second.start()
        second.join(0.05)  # it reads now, if nothing holds it back
        return write_calibration(merged, folder)

    monkeypatch.setattr("server.calibration.files.write_calibration", write)
    path, kept = merge_calibration(choice, tmp_path)
    second.join()
    assert kept == []
    assert read_calibration(path).kinds == {**choice.kinds, **score.kinds}
