"""Compiling, caching and loading the C++ kernels; and what happens where that cannot work."""

import ctypes
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.attention.cpu import CpuAttention
from models.errors import SettingError
from models.kernels.cpu import build, library
from tests.helpers.deadline import wait_until


@pytest.fixture(scope="module")
def portable_libraries() -> dict[str, Path]:
    """Compiled ones in the user's own cache, by the names of their recipes."""
    recipes = (build.level_recipe("portable"), build.PROBE)
    return {recipe.name: build.ensure_library(recipe, build.kernel_folder()) for recipe in recipes}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder, and no library remembered by this process before or after."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    monkeypatch.delenv(library.LEVEL_VARIABLE, raising=False)
    library._library_and_reason.cache_clear()
    yield tmp_path
    library._library_and_reason.cache_clear()


def test_kernel_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert build.kernel_folder() == Path("/x/headrace/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/y")
    assert build.kernel_folder() == Path("/home/y/.cache/headrace/kernels")


def test_library_is_compiled_once_and_leaves_nothing_else(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two small sources: the real ones are compiled for every other test."""
    sources = [fresh / "a.cpp", fresh / "b.cpp"]
    for source in sources:
        source.write_text(f'extern "C" __attribute__((visibility("default"))) int {source.stem}() {{ return 7; }}')
    monkeypatch.setattr(build, "kernel_sources", lambda: sources)
    folder = fresh / "cache"
    first = build.ensure_library(build.level_recipe("portable"), folder)
    stamp = first.stat().st_mtime_ns
    assert build.ensure_library(build.level_recipe("portable"), folder) == first
    assert first.stat().st_mtime_ns == stamp
    assert [path.name for path in folder.iterdir()] == [first.name]
    loaded = ctypes.CDLL(str(first))
    assert loaded.a() + loaded.b() == 14


def test_sources_in_two_folders_may_have_one_name(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [fresh / name / "same.cpp" for name in ("a", "b")]
    for source in sources:
        source.parent.mkdir()
        name = source.parent.name
        source.write_text(f'extern "C" __attribute__((visibility("default"))) int {name}() {{ return 7; }}')
    monkeypatch.setattr(build, "kernel_sources", lambda: sources)
    loaded = ctypes.CDLL(str(build.ensure_library(build.level_recipe("portable"), fresh / "cache")))
    assert loaded.a() + loaded.b() == 14


def test_processes_that_start_together_compile_once(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """flock tells two openings of a file apart in one process as well."""
    source = fresh / "a.cpp"
    source.write_text("int a() { return 7; }")
    monkeypatch.setattr(build, "kernel_sources", lambda: [source])
    caplog.set_level("INFO", build.__name__)
    compile_, found = build._compile, list[Path]()
    second = threading.Thread(
        target=lambda: found.append(build.ensure_library(build.level_recipe("portable"), fresh / "cache"))
    )

    def compile_beside_another(*given: Any) -> None:
        monkeypatch.setattr(build, "_compile", None)  # nothing else compiles
        second.start()
        wait_until(lambda: "another process compiles headrace-portable" in caplog.text, "the second one waits")
        compile_(*given)

    monkeypatch.setattr(build, "_compile", compile_beside_another)
    first = build.ensure_library(build.level_recipe("portable"), fresh / "cache")
    second.join()
    assert found == [first]
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_compilation_says_how_many_of_its_files_are_done(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [fresh / f"{name}.cpp" for name in "abc"]
    for source in sources:
        source.write_text(f"int {source.stem}() {{ return 7; }}")
    monkeypatch.setattr(build, "kernel_sources", lambda: sources)
    heard: list[tuple[int, int]] = []
    with build.watching_compilation(lambda done, total: heard.append((done, total))):
        build.ensure_library(build.level_recipe("portable"), fresh / "cache")
        assert heard == [(0, 3), (1, 3), (2, 3), (3, 3)]
        build.ensure_library(build.PROBE, fresh / "cache")  # a single file has no progress to tell of
        build.ensure_library(build.level_recipe("portable"), fresh / "cache")  # there already
    build.ensure_library(build.level_recipe("portable"), fresh / "another")  # nobody listens any more
    assert len(heard) == 4


def test_library_takes_over_torch_thread_count() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            library.set_num_threads(threads)
            assert torch.get_num_threads() == threads
            assert library.load_level("portable").num_threads() == threads
            assert library.required_library().num_threads() == threads
    finally:
        library.set_num_threads(before)


@pytest.mark.usefixtures("fresh")
def test_missing_compiler_is_said_once_and_refused_by_the_back_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        assert library.kernel_library() is None
        assert library.kernel_library() is None
    assert [record.getMessage().count("no-such-compiler") for record in caplog.records] == [1]
    assert library.describe_kernels().startswith("Native kernels: none (no C++ compiler found (tried no-such-compiler)")
    reason = CpuAttention().unsupported(AttentionSpec(4, 4, 64, 1.0), torch.float32, torch.float32, torch.device("cpu"))
    assert reason is not None
    assert "not available" in reason


def test_compiler_error_is_shown_with_its_command(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = fresh / "broken.cpp"
    broken.write_text("int main( {")
    monkeypatch.setattr(build, "kernel_sources", lambda: [broken])
    with pytest.raises(build.KernelBuildError, match=r"(?s)broken\.cpp.* failed with status 1.*error:"):
        build.ensure_library(build.level_recipe("portable"), fresh / "cache")
    assert list((fresh / "cache").iterdir()) == []


def test_what_a_killed_compilation_left_is_removed(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = fresh / "sound.cpp"
    source.write_text("int main() {}")
    monkeypatch.setattr(build, "kernel_sources", lambda: [source])
    abandoned, running = fresh / "cache/.build-old", fresh / "cache/.build-new"
    for folder in (abandoned, running):
        folder.mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    build.ensure_library(build.level_recipe("portable"), fresh / "cache")
    assert not abandoned.exists()
    assert running.exists()


def test_unwritable_cache_names_the_remedy(fresh: Path) -> None:
    blocked = fresh / "file"
    blocked.write_text("")
    with pytest.raises(build.FolderNotWritable, match="Not a directory; set HEADRACE_CACHE"):
        build.ensure_library(build.level_recipe("portable"), blocked / "cache")


def test_without_a_writable_cache_kernels_are_compiled_in_a_temporary_folder(
    portable_libraries: dict[str, Path],
    fresh: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    compiled: list[Path] = []

    def copy_instead(_: str, recipe: build.Recipe, target: Path) -> None:
        compiled.append(target)
        shutil.copy(portable_libraries[recipe.name], target)

    (fresh / "file").write_text("")
    monkeypatch.setenv("HEADRACE_CACHE", str(fresh / "file"))
    monkeypatch.setenv(library.LEVEL_VARIABLE, "portable")
    monkeypatch.setattr(build, "_compile", copy_instead)
    with caplog.at_level(logging.WARNING):
        library.kernel_library()
    assert library.required_library().level == "portable"
    assert library.describe_kernels() == "Native kernels: portable (compiled for this start)"
    assert not any(path.parent.exists() for path in compiled)
    (line,) = (record.getMessage() for record in caplog.records)
    assert f"cannot be written to {fresh}/file/kernels; set HEADRACE_CACHE" in line


@pytest.mark.usefixtures("fresh")
def test_a_cache_that_nothing_can_be_run_from_is_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.delenv(library.LEVEL_VARIABLE, raising=False)
    monkeypatch.setattr(build, "prebuilt_library", lambda _: None)
    monkeypatch.setattr(build, "ensure_library", lambda _, folder: folder / "probe.so")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with caplog.at_level(logging.WARNING):
        assert library.kernel_library() is None
    (line,) = (record.getMessage() for record in caplog.records)
    assert "probe.so: failed to map segment" in line
    assert "noexec, set HEADRACE_CACHE to a folder" in line


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sse9", r"HEADRACE_CPU_LEVEL is 'sse9'; it must be one of portable, avx2,"),
        ("amx", r"HEADRACE_CPU_LEVEL is amx, which this processor does not run; it runs portable, avx2$"),
    ],
)
def test_a_level_that_cannot_be_had_is_refused_rather_than_done_without(
    monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    monkeypatch.setenv(library.LEVEL_VARIABLE, given)
    monkeypatch.setattr(build, "LEVELS", build._X86_LEVELS)
    monkeypatch.setattr(library, "detect_level", lambda: "avx2")
    with pytest.raises(SettingError, match=message):
        library.kernel_library()


def test_spin_time_that_is_no_number_is_refused_with_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SPIN_VARIABLE, "20us")
    with pytest.raises(SettingError, match=r"HEADRACE_SPIN_US is '20us'.*0 to 1,000,000"):
        library.load_level("portable")
