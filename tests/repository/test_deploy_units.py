"""systemd itself takes the unit in deploy/."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.deploy_files import UNIT

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.mark.parametrize("command", [["verify"], ["security", "--offline=true", "--no-pager", "--threshold=20"]])
def test_systemd_takes_the_unit_and_finds_it_confined(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "headrace.service"
    path.write_text(UNIT.read_text().replace("/opt/headrace/bin/headrace", "/bin/true"))
    done = subprocess.run(["systemd-analyze", *command, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
