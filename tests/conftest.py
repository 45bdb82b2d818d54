"""What holds for all tests: the fast tier, and how a run is divided among processes.

`pytest -m fast` runs pure logic alone. A file is fast as a whole, by the line `pytestmark = pytest.mark.fast`. Other
files are not even imported, which would load torch, and importing torch is an error. In every run it is an error for a
fast test to start a process.

`make test` divides the files among one process more than there are CPUs (pytest-xdist), in the order of their names.
All of `e2e` is one piece, since its tests share a server; it begins early, for it is the longest, and often waits.
"""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from engine.child_processes.log_format import FORM_VARIABLE, LEVEL_VARIABLE, StderrHandler
from models.system.cores import allowed_cpus, cpu_quota

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

# Collecting tests makes some two million objects that stay. Looking for garbage among them takes a quarter of the time.
gc.disable()

_MARK = "pytestmark = pytest.mark.fast"
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_running: list[bool] = []  # whether the test that runs is fast; tests of pytest itself run others inside

# Of loggers whose level --log-level sets.
_LEVELS = {logging.getLogger(name): logging.getLogger(name).level for name in (None, "uvicorn", "httpx")}

_WORKER_BYTES = 4 << 30  # a process's models of tests, and a server beside it


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes for `--numprocesses auto`: one more than the CPUs that may be used, for one waits for its servers,
    as far as there is memory for them."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    num_cpus = min(len(allowed_cpus()), int(cpu_quota() or sys.maxsize))
    return max(1, min(num_cpus + 1, memory_bytes // _WORKER_BYTES))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # runs without pytest-xdist do without it

    class Scheduling(LoadFileScheduling):
        """Whole files, and all of e2e together."""

        def _split_scope(self, nodeid: str) -> str:
            return "tests/e2e" if nodeid.startswith("tests/e2e/") else super()._split_scope(nodeid)

    return Scheduling(config, log)


def _is_fast_run(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "fast")


def pytest_configure(config: pytest.Config) -> None:
    sys.addaudithook(_refuse_processes)
    if _is_fast_run(config):
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to forbid an import


def pytest_collection_finish() -> None:
    gc.freeze()  # else every collection of a test looks at all of them, for a second
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    _running.append(item.get_closest_marker("fast") is not None)
    try:
        yield
    finally:
        _running.pop()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Take back what commands and benchmarks leave that run in this process. Torch's products are slower here with the
    threads that they gave it, and repeat no bits. By the log's level and form, what later tests log would depend on the
    order of the files."""
    num_threads = int(os.environ["OMP_NUM_THREADS"])
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)
    for name in (LEVEL_VARIABLE, FORM_VARIABLE):
        os.environ.pop(name, None)
    for logger, level in _LEVELS.items():
        logger.setLevel(level)
    logging.root.handlers[:] = [each for each in logging.root.handlers if not isinstance(each, StderrHandler)]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not _is_fast_run(config):
        return None
    if collection_path.is_dir():  # a folder without fast tests may have a conftest.py that imports torch
        return not any(map(_is_fast, collection_path.rglob("test_*.py"))) or None
    return (collection_path.name.startswith("test_") and not _is_fast(collection_path)) or None


def _is_fast(file: Path) -> bool:
    return _MARK in file.read_text()


def _refuse_processes(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in _STARTS:
        assert not any(_running), f"a fast test starts a process ({event})"
