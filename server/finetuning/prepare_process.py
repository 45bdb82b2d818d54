"""`python -m server.finetuning.prepare_process FOLDER`: makes a job's files for the server, in a process of its own.

FOLDER is a JobFolder with the model's tokenizer and a PrepareTask. What came of it is a line on stdout, an Outcome as
JSON. Memory is bounded by the system, time by nobody: a large file takes long.
"""

import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.command_io.finetuning.job import JobFolder
from engine.errors import HeadraceError, InvalidRequest
from server.finetuning.adapter_files import ADAPTER_FILES
from server.finetuning.faults import LineFault
from server.finetuning.job_files import JobOrder, write_job
from server.finetuning.preparation import FaultyFile, PreparationReport

_MAX_BYTES = 4 << 30  # of memory, beside what the program itself takes
_START = "start"  # of a job's folder


class PrepareTask(msgspec.Struct, frozen=True, kw_only=True):
    """train, valid: paths. The adapter of order.start is copied into the job's folder: it may be deleted meanwhile."""

    order: JobOrder
    train: str
    valid: str | None = None


class Made(msgspec.Struct, frozen=True, tag=True):
    """All is there that the trainer reads."""

    report: PreparationReport


class Faulty(msgspec.Struct, frozen=True, tag=True):
    """One of the files cannot be trained on: the validation file, or the training file."""

    faults: list[LineFault]
    is_validation: bool


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The job cannot be done as it was asked for. param: the field that asks for it. is_passing: the machine is the
    reason, such as a full disk."""

    message: str
    is_passing: bool = False
    param: str | None = None


Outcome = Made | Faulty | Refused


def task_file(folder: JobFolder) -> Path:
    """A PrepareTask in JSON."""
    return folder.path / "task.json"


def main(argv: Sequence[str]) -> int:
    exit_on_sigterm()
    end_with_parent()
    _limit_memory()
    folder = JobFolder(Path(argv[0]))
    outcome = prepared(folder, msgspec.json.decode(task_file(folder).read_bytes(), type=PrepareTask))
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    return 0


def prepared(folder: JobFolder, task: PrepareTask) -> Outcome:
    """What comes of the task, of which the job's folder has the files then."""
    try:
        order = _with_own_start(folder, task.order)
        train = Path(task.train).read_bytes()
        valid = None if task.valid is None else Path(task.valid).read_bytes()
        return Made(write_job(folder, order, train, valid))
    except FaultyFile as error:
        return Faulty(error.faults, error.is_validation)
    except InvalidRequest as error:
        return Refused(str(error), param=error.param)
    except HeadraceError as error:
        return Refused(str(error))
    except FileNotFoundError as error:
        return Refused(f"{Path(error.filename).name} is no longer on the server's disk; upload it again")
    except OSError as error:
        return Refused(f"the files cannot be made ready: {error.strerror}", is_passing=True)
    except MemoryError:
        return Refused(f"the files need more than {_MAX_BYTES >> 30} GiB of memory to be made ready; divide them")


def _with_own_start(folder: JobFolder, order: JobOrder) -> JobOrder:
    """Raises InvalidRequest if the adapter is gone, and OSError."""
    if order.start is None:
        return order
    own = folder.path / _START
    own.mkdir(exist_ok=True)
    try:
        for name in ADAPTER_FILES:
            shutil.copyfile(Path(order.start) / name, own / name)
    except FileNotFoundError as error:
        raise InvalidRequest(
            "the adapter that training was to continue has been deleted meanwhile; name another one, or its base model",
            param="model",
        ) from error
    return msgspec.structs.replace(order, start=_START)


def _limit_memory() -> None:
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MAX_BYTES, used + _MAX_BYTES))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
