"""`python -m engine.finetuning FOLDER`: the process that trains the job of a JobFolder.

It exits with its parent, and on SIGTERM. Started again, it continues from the last saved state.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.child_processes.background import TRY_AGAIN, is_full_disk
from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.command_io.finetuning.events import JobEventLog
from engine.command_io.finetuning.job import JobFolder
from engine.command_io.progress import foreground_progress
from engine.errors import HeadraceError, NotEnoughMemory
from models.errors import ModelError, is_out_of_memory

_OUT_OF_MEMORY = (
    "training needs more memory than this process may have; give a smaller --batch-size, --max-length or, for "
    "reinforcement, --max-completion-tokens"
)


def main(argv: Sequence[str]) -> int:
    """Train, and return the exit code."""
    end_with_parent()
    folder = JobFolder(Path(argv[0]))
    try:
        with contextlib.closing(foreground_progress()) as progress:
            from engine.finetuning.run import train  # imports torch, which takes long; until then SIGTERM just ends it

            exit_on_sigterm()
            say = progress.say
            out = train(folder, progress, lambda event: None if event.kind == "metrics" else say(event.message))
    except OSError as error:
        if is_full_disk(error):
            sys.stderr.write(f"headrace: {error}; the same command continues from the last saved state\n")
            return TRY_AGAIN
        return _fail(folder, _reason(error), error)
    except (HeadraceError, ModelError) as error:
        return _fail(folder, str(error), error)
    except SystemExit:
        return 128 + signal.SIGTERM  # not raised again: to take torch down takes long, and the parent waits
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return _fail(folder, _OUT_OF_MEMORY, error)
    if out is not None:
        sys.stdout.write(f"{out}\n")
    return 0


def _reason(error: OSError) -> str:
    """Return an OSError's text without the folder's path, which clients of a server must not see."""
    where = "" if error.filename is None else f"{Path(error.filename).name}: "
    return f"{where}{error.strerror or error}"


def _fail(folder: JobFolder, reason: str, error: Exception) -> int:
    sys.stderr.write(f"headrace: {reason}\n")
    is_memory = isinstance(error, NotEnoughMemory) or is_out_of_memory(error)
    JobEventLog(folder.events).add(
        reason, level="error", code="insufficient_memory" if is_memory else "training_failed"
    )
    return 1


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
