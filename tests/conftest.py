"""The fast tier: `pytest -m fast` runs pure logic alone, and holds it to that.

A file is fast as a whole, by the line `pytestmark = pytest.mark.fast`. In such a run the other files are not even
imported, which would load torch; importing torch and starting a process are errors.
"""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# For torch in this process: models are tiny, and several threads for an operator of theirs cost more than they save.
# Where another process has a core they cost ten times as much and more: each waits for the others, and spins.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asserts a time: hypothesis' deadline for an example would, and its check of how fast examples are drawn. How
# many it drops is chance. Each run draws the same, so that a failure is the change's that is tested; others are drawn
# by `pytest --hypothesis-profile=random`.
_BY_CHANCE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("random", deadline=None, suppress_health_check=_BY_CHANCE, derandomize=False)
settings.register_profile("headrace", settings.get_profile("random"), derandomize=True, database=None)
settings.load_profile("headrace")

_MARK = "pytestmark = pytest.mark.fast"
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}


def _is_fast_run(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "fast")


def pytest_configure(config: pytest.Config) -> None:
    if _is_fast_run(config):
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to forbid an import
        sys.addaudithook(_refuse_processes)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not _is_fast_run(config):
        return None
    if collection_path.is_dir():  # a folder without fast tests may have a conftest.py that imports torch
        return not any(map(_is_fast, collection_path.rglob("test_*.py"))) or None
    return (collection_path.name.startswith("test_") and not _is_fast(collection_path)) or None


def _is_fast(file: Path) -> bool:
    return _MARK in file.read_text()


def _refuse_processes(event: str, _arguments: tuple[Any, ...]) -> None:
    assert event not in _STARTS, f"a fast test starts a process ({event})"
