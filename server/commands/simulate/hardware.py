"""Hardware of `headrace simulate` and `headrace plan`: files of --save-hardware, and the process that has torch."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.child_processes.environment import compute_environment
from engine.errors import OptionError
from engine.simulation.hardware import SimulatedModel, model_faults
from server.commands.options.definitions import OPTIONS

THIS = "this"
T = TypeVar("T")


def read_saved(path: str) -> SimulatedModel:
    """Read a file of --save-hardware. Raises OptionError for another file, and for values that cannot be."""
    refusal = f"--hardware is {path}, which is not a file of --save-hardware"
    try:
        model = msgspec.json.decode(Path(path).read_bytes(), type=SimulatedModel)
    except OSError as error:
        raise OptionError(f"cannot read {path} of --hardware: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise OptionError(f"{refusal}: {error}") from error
    except msgspec.DecodeError as error:
        raise OptionError(f"{refusal}: it is not a whole JSON object") from error
    if (fault := next(model_faults(model), None)) is not None:
        raise OptionError(f"{refusal}: {fault}")
    return model


def refuse_decided(names: tuple[str, ...], given: Mapping[str, object], path: str) -> None:
    """Raise OptionError for a given option that was decided when the file of --hardware was saved."""
    if unusable := [name for name in names if name in given]:
        flag = OPTIONS[unusable[0]].flag
        raise OptionError(f"{flag} was decided when {path} was saved; leave it out, or save another")


def answer_from(module: str, job: object, answer: type[T]) -> T:
    """Run one of headrace's modules with a job, and return its answer. Exits with the module's code if it fails; it
    has then written why."""
    command = [sys.executable, "-P", "-m", module, msgspec.json.encode(job).decode()]
    process = subprocess.run(
        command, env=compute_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    if process.returncode != 0:
        sys.exit(process.returncode if process.returncode > 0 else 1)
    return msgspec.json.decode(process.stdout, type=answer)
