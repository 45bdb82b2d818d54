"""A program that is started without stdin, stdout or stderr."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT

_PROGRAM = """
import os, sys
from server.commands.process_setup import open_standard_streams
open_standard_streams()
print("out")
print("err", file=sys.stderr)
sys.stdin.read()
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(file, b"%d" % file)
assert all(os.get_inheritable(number) for number in range(3))
"""
_CLOSED = [each for count in range(4) for each in itertools.combinations(("<&-", ">&-", "2>&-"), count)]


@pytest.mark.parametrize("closed", _CLOSED, ids=lambda each: " ".join(each) or "none")
def test_what_is_closed_is_opened_and_no_file_takes_its_place(closed: tuple[str, ...], tmp_path: Path) -> None:
    command = [
        "sh",
        "-c",
        f'exec "$@" {" ".join(closed)}',
        "sh",
        sys.executable,
        "-c",
        _PROGRAM,
        str(tmp_path / "file"),
    ]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "file").read_text()) > 2
    assert done.stdout == ("" if ">&-" in closed else "out\n")
    assert done.stderr == ("" if "2>&-" in closed else "err\n")
