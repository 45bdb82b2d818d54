"""`python -m engine.commands.quantize JOB`: the process behind `headrace quantize`.

JOB is JSON: a list of MODEL, the command's own options and the token of its OutputFolder. The process ends with its
parent, and on SIGTERM.
"""

import contextlib
import sys
from collections.abc import Sequence

import msgspec

from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.command_io.output_folder import OutputFolder
from engine.command_io.program import as_typed
from engine.command_io.progress import foreground_progress
from engine.command_io.quantize_config import QuantizeConfig
from engine.errors import HeadraceError
from models.errors import ModelError, is_out_of_memory

_OUT_OF_MEMORY = (
    "quantizing needs more memory than this process may have; raise its limit (ulimit -v), or free some, or try "
    "--method rtn or --no-quality-report, which need less"
)


def main(argv: Sequence[str]) -> int:
    """Quantize, measure, and print the table; return the exit code."""
    exit_on_sigterm()
    end_with_parent()
    (job,) = argv
    model, options, token = msgspec.json.decode(job)
    config = msgspec.convert(options, QuantizeConfig)
    assert config.out is not None
    try:
        with contextlib.closing(foreground_progress()) as progress:
            from engine.commands.quantize.command import quantize  # imports torch: a signal may come meanwhile

            quantize(model, config, OutputFolder.of(config.out, token), progress)
    except (HeadraceError, ModelError) as error:
        sys.stderr.write(f"headrace: {as_typed(str(error))}\n")
        return 1
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(f"headrace: {_OUT_OF_MEMORY}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
