"""The process of `headrace plan` loads no torch; checked in a process of its own, since this one has it."""

import subprocess
import sys


def test_the_command_loads_neither_torch_nor_models() -> None:
    arguments = ["m", "--input", "8", "--output", "4", "--num-requests", "20", "--concurrency", "2"]
    code = (
        "import sys; from server.commands.plan import command; "
        "from engine.simulation.planning.job import PlannedModels; "
        "from tests.engine.simulation.planning.test_search import EVEN; "
        "command.answer_from = lambda *_: PlannedModels(EVEN, []); "
        f"assert command.run({arguments!r}) == 0; "
        "assert not {'torch', 'numpy', 'models'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
