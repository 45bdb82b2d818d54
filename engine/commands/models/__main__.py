"""`python -m engine.commands.models JOB`: the process behind `headrace models`. JOB is a ModelsJob as JSON.

It does not import torch, so that a list appears without delay.
"""

import sys
from collections.abc import Sequence

import msgspec

from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.command_io.models_config import ModelsJob
from engine.command_io.program import as_typed
from engine.commands.models.listing import show
from engine.commands.models.removal import remove_named
from engine.errors import HeadraceError
from models.caches.inventory import inventory


def main(argv: Sequence[str]) -> int:
    """List or remove models; return the exit code."""
    exit_on_sigterm()
    end_with_parent()
    job = msgspec.json.decode(argv[0], type=ModelsJob)
    try:
        entries = inventory()
        if job.remove is not None:
            return remove_named(job, entries)
        show(entries, as_json=job.as_json)
    except HeadraceError as error:
        sys.stderr.write(f"headrace: {as_typed(str(error))}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
