"""The wheel holds the three packages whole, with texts and the kernels' sources and libraries, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from models.kernels.cpu import build
from models.kernels.cpu import wheel as wheel_commands
from models.kernels.cpu.build import LEVELS, find_compiler
from models.kernels.cpu.library import detect_level
from tests.helpers.repository import ROOT

PACKAGES = ("server", "engine", "models")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with the kernels of one level, built from a copy of the tree, since a build leaves folders behind.

    They are compiled without optimization, a sixth of the time: none computes here.
    """
    copy = tmp_path_factory.mktemp("tree")
    compiler = tmp_path_factory.mktemp("compiler") / "c++"
    compiler.write_text(f'#!/bin/sh\nexec "{find_compiler()}" "$@" -O0\n')
    compiler.chmod(0o755)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*PACKAGES, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    environ = {**os.environ, "HEADRACE_WHEEL_LEVELS": "portable", "PYTHONPATH": "", "CXX": str(compiler)}
    subprocess.run([sys.executable, "-c", build], cwd=copy, env=environ, check=True, capture_output=True)
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_has_only_the_three_packages(wheel_names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_wheel_has_every_module_kernel_source_and_text(wheel_names: list[str]) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for suffix in ("*.py", "*.cpp", "*.h", "*.txt")
        for path in (ROOT / package).rglob(suffix)
    }
    assert wanted - set(wheel_names) == set()


def test_kernels_of_the_wheel_are_used_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "from models.kernels.cpu.library import kernel_library; print(kernel_library().path)"
    environ = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "site"),
        "HEADRACE_CPU_LEVEL": "portable",
        "HEADRACE_CACHE": str(tmp_path / "cache"),
        "CXX": "no-such-compiler",
    }
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).parent == tmp_path / "site/models/kernels/cpu/prebuilt"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("given", "levels"),
    [(None, ["native"]), ("native,avx2", ["native", "avx2"]), ("none", []), ("all", list(LEVELS))],
)
def test_levels_of_a_wheel_are_this_machine_s_unless_others_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: str | None, levels: list[str]
) -> None:
    monkeypatch.delenv(wheel_commands.LEVELS_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(wheel_commands.LEVELS_VARIABLE, given)
    assert wheel_commands._requested_levels() == levels


def test_unknown_level_of_a_wheel_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wheel_commands.LEVELS_VARIABLE, "sse9")
    with pytest.raises(SystemExit, match=r"names sse9; it must be all, none, or some of native, portable"):
        wheel_commands._requested_levels()


def test_native_kernels_of_a_wheel_are_of_the_level_that_this_machine_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [tmp_path / "a.cpp", tmp_path / "b.cpp"]
    for source in sources:
        source.write_text(f"int {source.stem}() {{ return 7; }}")
    monkeypatch.setattr(build, "kernel_sources", lambda: sources)
    wheel_commands._compile(["native"], tmp_path / "prebuilt")
    level = detect_level()
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "prebuilt").iterdir())
    assert names == sorted(["headrace-cpu-level", f"headrace-{level}"])
    assert f"kernels for {level}: 2 of 2 files compiled" in capsys.readouterr().out


def test_wheel_with_kernels_says_for_which_system(wheel: Path) -> None:
    assert wheel.name.startswith("headrace-")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
