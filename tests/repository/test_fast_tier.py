"""The fast tier is collected without torch, and its tests start no process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT

_STARTS_A_PROCESS = """
import subprocess, sys
import pytest
pytestmark = pytest.mark.fast
def test_starts_a_process():
    subprocess.run([sys.executable, "-c", ""], check=True)
"""


def run_pytest(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_fast_file_is_imported_without_torch() -> None:
    done = run_pytest("-m", "fast", "--collect-only", "--assert=plain")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("options", [[], ["-m", "fast"]])
def test_a_fast_test_that_starts_a_process_fails(options: list[str], tmp_path: Path) -> None:
    file = tmp_path / "test_process.py"
    file.write_text(_STARTS_A_PROCESS)
    conftest = f"--confcutdir={tmp_path}", "-p", "tests.conftest"  # else the folders above are walked as well
    done = run_pytest(*options, *conftest, str(file))
    assert done.returncode == 1
    assert "a fast test starts a process (subprocess.Popen)" in done.stdout
