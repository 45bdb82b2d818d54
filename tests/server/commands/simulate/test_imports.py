"""The process of `headrace simulate` loads no torch; checked in a process of its own, since this one has it."""

import subprocess
import sys
from pathlib import Path

import msgspec

from tests.engine.simulation.test_fleet import MODEL


def test_the_command_loads_neither_torch_nor_models(tmp_path: Path) -> None:
    path = tmp_path / "hardware.json"
    path.write_bytes(msgspec.json.encode(MODEL))
    arguments = ["--synthetic", "--num-requests", "5", "--hardware", str(path)]
    code = (
        "import sys; from server.commands.simulate.command import run; "
        f"assert run({arguments!r}) == 0; "
        "assert not {'torch', 'numpy', 'models'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
