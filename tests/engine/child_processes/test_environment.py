"""The environment of a process that computes: its threads are bound to no core, and spin for a short time only."""

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.child_processes.environment import compute_environment

_BOUND = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "GOMP_CPU_AFFINITY": "0", "KMP_AFFINITY": "compact"}


def _set_only(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in (*_BOUND, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_variables_that_bind_threads_are_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _set_only(monkeypatch, **_BOUND, OMP_NUM_THREADS="3")
    with caplog.at_level(logging.WARNING):
        environment = compute_environment()
    assert not _BOUND.keys() & environment.keys()
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "GOMP_CPU_AFFINITY, KMP_AFFINITY, OMP_PLACES, OMP_PROC_BIND;" in caplog.text


def test_variables_that_bind_nothing_stay(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    variables = {"OMP_PROC_BIND": "FALSE", "OMP_PLACES": "cores"}
    _set_only(monkeypatch, **variables)
    with caplog.at_level(logging.WARNING):
        assert variables.items() <= compute_environment().items()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_spinning_has_a_limit_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    _set_only(monkeypatch, **given)
    assert compute_environment().get("GOMP_SPINCOUNT") == expected


def test_openmp_leaves_the_main_thread_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own OpenMP, which binds the thread that loads it."""
    _set_only(monkeypatch, OMP_PROC_BIND="true", OMP_PLACES="cores")
    torch = find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    libraries = list(Path(torch.origin).parent.glob("lib/libgomp*"))
    if not libraries or len(os.sched_getaffinity(0)) == 1:
        pytest.skip("needs two CPUs and libgomp")
    source = f"import ctypes, os; ctypes.CDLL({str(libraries[0])!r}); print(len(os.sched_getaffinity(0)))"

    def num_cpus(environment: dict[str, str]) -> int:
        return int(subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True).stdout)

    assert num_cpus(dict(os.environ)) < len(os.sched_getaffinity(0)), "the variables bind nothing here"
    assert num_cpus(compute_environment()) == len(os.sched_getaffinity(0))
