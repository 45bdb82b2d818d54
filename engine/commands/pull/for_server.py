"""`python -m engine.commands.pull.for_server MODEL`: fetches a model for a server, which reads the progress.

Each line of the output is a PullMessage in JSON; the last one is the result or a refusal. The process ends with its
parent, and on SIGTERM; the next one continues with the files that have arrived by then.
"""

import os
import sys
import time
from collections.abc import Sequence

import msgspec

from engine.child_processes.background import LOW, give_way
from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.child_processes.log_format import FORM_VARIABLE, LEVEL_VARIABLE, LogFormat, configure_logging
from engine.command_io.findings import problem
from engine.command_io.pulling import Pulled, PullMachine, PullMessage, PullProgress, PullRefused
from engine.errors import HeadraceError
from models.errors import ModelError

_REPORT_INTERVAL_S = 0.1


def main(argv: Sequence[str]) -> int:
    """Fetch and verify a model, and print messages. Return the exit code, which is 0 also after a refusal."""
    exit_on_sigterm()
    end_with_parent()
    configure_logging(os.environ.get(LEVEL_VARIABLE, "info"), LogFormat(os.environ.get(FORM_VARIABLE, LogFormat.TEXT)))
    (model,) = argv
    _report("import libraries", 0, 0, "")
    try:
        _print(_pull(model))
    except (HeadraceError, ModelError) as error:
        _print(PullRefused(str(error)))
    return 0


def _pull(model: str) -> Pulled:
    from engine.commands.doctor.model import default_device, memory_finding  # imports torch, which takes seconds
    from engine.commands.pull.command import fetch_verified, location, stored_bytes
    from models.errors import SourceError
    from models.sources.resolve import is_path
    from models.system.memory import free_memory_bytes

    if is_path(model):  # such as a file in the server's folder
        raise SourceError(f"{model!r} is a path on the server's machine, which needs no download; serve it from there")
    give_way(LOW)  # not before: with little of a busy processor, the imports above would take minutes
    _print(PullMachine(free_memory_bytes(default_device())))
    files = fetch_verified(model, None, _Reporter())
    _report("check that it can be served", 0, 0, "")
    try:
        memory = memory_finding(files)
    except ModelError as error:  # such as a GGUF of an unknown architecture
        memory = problem("model", str(error))
    return Pulled(str(location(files)), stored_bytes(files), memory)


class _Reporter:
    """A ProgressReport that prints at most ten updates of a stage a second, and the last one."""

    def __init__(self) -> None:
        self._stage = ""
        self._printed_s = 0.0

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now_s = time.monotonic()
        if stage != self._stage or done == total or now_s - self._printed_s >= _REPORT_INTERVAL_S:
            self._stage, self._printed_s = stage, now_s
            _report(stage, done, total, unit)


def _report(stage: str, done: int, total: int, unit: str) -> None:
    _print(PullProgress(stage, done, total, unit))


def _print(message: PullMessage) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # does not wait for the connections of a failed download
