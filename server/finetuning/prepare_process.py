"""`python -m server.finetuning.prepare_process FOLDER`: the process that prepares a job's files for the server.

FOLDER is a JobFolder with the model's tokenizer and a PrepareTask. The process writes an Outcome to stdout, as a line
of JSON. Its memory is limited. Its time is not, since large files take long.
"""

import asyncio
import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.command_io.finetuning.job import JobFolder
from engine.command_io.finetuning.mailbox import BodyQuestion, ask_mail
from engine.errors import HeadraceError, InvalidRequest
from server.finetuning.adapter_files import ADAPTER_FILES
from server.finetuning.faults import FileFault
from server.finetuning.job_files import MAX_BYTES, JobOrder, write_job
from server.finetuning.preparation import FaultyFile, PreparationReport
from server.jobs.answers import AnswerBodies, BodyAnswer

_START = "start"  # of a job's folder


class PrepareTask(msgspec.Struct, frozen=True, kw_only=True):
    """The input of the process. train, valid: paths of the files. against: names and paths of evaluation files. The
    adapter at order.start is copied into the job's folder, since it may be deleted during the job."""

    order: JobOrder
    train: str
    valid: str | None = None
    against: list[tuple[str, str]] = []


class Made(msgspec.Struct, frozen=True, tag=True):
    """Outcome: all of the trainer's input has been written."""

    report: PreparationReport


class Faulty(msgspec.Struct, frozen=True, tag=True):
    """Outcome: a file has faults. is_validation: whether it is the validation file, not the training file."""

    faults: list[FileFault]
    is_validation: bool


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Outcome: the job cannot be prepared. param: the field of the request that is at fault; None if no field is.
    is_passing: whether the cause is temporary, such as a full disk."""

    message: str
    is_passing: bool = False
    param: str | None = None


Outcome = Made | Faulty | Refused


def task_file(folder: JobFolder) -> Path:
    """Return the path of the JSON file with the PrepareTask."""
    return folder.path / "task.json"


def main(argv: Sequence[str]) -> int:
    exit_on_sigterm()
    end_with_parent()
    _limit_memory()
    folder = JobFolder(Path(argv[0]))
    outcome = prepare_files(folder, msgspec.json.decode(task_file(folder).read_bytes(), type=PrepareTask))
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
    return 0


def prepare_files(folder: JobFolder, task: PrepareTask, answer: AnswerBodies | None = None) -> Outcome:
    """Prepare the job's files in its folder, and return the outcome. answer: answers requests to served models, by
    default through the folder's mailbox."""
    try:
        order = _with_own_start(folder, task.order)
        train = Path(task.train).read_bytes()
        valid = None if task.valid is None else Path(task.valid).read_bytes()
        evaluations = [(name, Path(path).read_bytes()) for name, path in task.against]
        return Made(write_job(folder, order, train, valid, evaluations, answer or _mailed(folder)))
    except FaultyFile as error:
        return Faulty(error.faults, error.is_validation)
    except InvalidRequest as error:
        return Refused(str(error), param=error.param)
    except HeadraceError as error:
        return Refused(str(error))
    except FileNotFoundError as error:
        return Refused(f"{Path(error.filename).name} is no longer on the server's disk; upload it again")
    except OSError as error:
        return Refused(f"the files cannot be prepared: {error.strerror}", is_passing=True)
    except MemoryError:
        return Refused(f"the files need more than {MAX_BYTES >> 30} GiB of memory to be prepared; divide them")


def _mailed(folder: JobFolder) -> AnswerBodies:
    """Return a function that lets the server answer bodies, through the folder's mailbox."""

    async def answer(path: str, bodies: Sequence[dict[str, Any]]) -> list[BodyAnswer]:
        questions = [BodyQuestion(path, body) for body in bodies]
        return await asyncio.to_thread(ask_mail, folder, questions, BodyAnswer)

    return answer


def _with_own_start(folder: JobFolder, order: JobOrder) -> JobOrder:
    """Copy the adapter to continue from into the job's folder. Raises InvalidRequest if it was deleted, and OSError."""
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
        resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
