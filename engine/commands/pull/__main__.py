"""`python -m engine.commands.pull JOB`: the process behind `headrace pull`.

JOB is JSON: a list of MODEL and a revision or null. The process ends with its parent, and on SIGTERM; the next one
continues with the files that have arrived by then.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence

import msgspec

from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.child_processes.log_format import StderrHandler, TextFormatter
from engine.command_io.program import as_typed
from engine.command_io.progress import foreground_progress
from engine.errors import HeadraceError
from models.errors import ModelError


def main(argv: Sequence[str]) -> int:
    """Fetch and verify a model, print the result, and return the exit code."""
    exit_on_sigterm()
    end_with_parent()
    _configure_logging()
    (job,) = argv
    model, revision = msgspec.json.decode(job, type=tuple[str, str | None])
    try:
        with contextlib.closing(foreground_progress()) as progress:
            progress("import libraries", 0, 0, "")
            from engine.commands.pull.command import pull  # imports torch: a signal may come meanwhile

            outcome = pull(model, revision, progress)
    except (HeadraceError, ModelError) as error:
        sys.stderr.write(f"headrace: {as_typed(str(error))}\n")
        return 1
    sys.stdout.write(f"{outcome}\n")
    return 0


def _configure_logging() -> None:
    handler = StderrHandler()
    handler.setFormatter(TextFormatter("headrace: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # does not wait for the connections of a failed download
