"""The jobs of a curve: which parts of a file, ranks or numbers of epochs are trained, and how often each.

A law has three parameters, so its uncertainty needs more than one job at each of three sizes. Disjoint parts of the
file cost as much together as the whole, and their losses differ by chance of the examples too.
"""

import codecs
import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from engine.command_io.finetuning.auto import default_rank
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, Probe, Scaling, TrainingMethod
from engine.errors import OptionError
from engine.wording import counted
from server.finetuning.preparation import MIN_LINES

_PARTS = (4, 2)  # of the file; two doublings lie between a quarter and the whole
_LEAST_NUMBER = 4  # a rank or number of epochs with a half and a quarter
_HELD_OUT = 10  # one line in ten, and at least ten
_NAMES = {1: "whole", 2: "half", 4: "quarter"}
UNITS = {Scaling.DATA: "examples", Scaling.RANK: "rank", Scaling.EPOCHS: "epochs"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Hyperparameters that the trainer chose for the whole job."""

    n_epochs: int
    batch_size: int
    learning_rate: float
    lora_rank: int


@dataclass(frozen=True, slots=True)
class CurveJob:
    """A job of the curve besides the whole one. size: its examples, rank or epochs. examples: indices in the whole
    job's training file."""

    name: str
    size: int
    examples: Sequence[int]
    job: FinetuningJob


def hold_out(train: bytes, kind: Scaling, method: TrainingMethod, seed: int) -> tuple[bytes, bytes]:
    """Divide a file of JSON lines into lines to train on and held-out lines. Lines keep their numbers: each file has
    empty lines in place of the other's. Raises OptionError for too few lines, and for plain text."""
    every = train.removeprefix(codecs.BOM_UTF8).split(b"\n")
    lines = [index for index, line in enumerate(every) if line.strip()]
    if method is TrainingMethod.PRETRAINING and lines and not every[lines[0]].lstrip().startswith(b"{"):
        raise OptionError("--scaling holds out lines, and the file is plain text; give a --validation file")
    least = _HELD_OUT + MIN_LINES * (_PARTS[0] if kind is Scaling.DATA else 1)
    if len(lines) < least:
        parts = f"at least {MIN_LINES} in each quarter of the rest" if kind is Scaling.DATA else f"{MIN_LINES} others"
        raise OptionError(
            f"--scaling {kind} needs at least {least} lines, {_HELD_OUT} to hold out and {parts}, and the file has "
            f"{len(lines)}; add lines{' or use --scaling rank' if kind is Scaling.DATA else ''}"
        )
    held_out = set(random.Random(f"{seed} held out").sample(lines, max(_HELD_OUT, len(lines) // _HELD_OUT)))
    kept = b"\n".join(b"" if index in held_out else line for index, line in enumerate(every))
    return kept, b"\n".join(line if index in held_out else b"" for index, line in enumerate(every))


def check_sizes(kind: Scaling, method: TrainingMethod, given: Hyperparameters, start: str | None) -> None:
    """Raise OptionError if a half and a quarter of the rank or epochs cannot be trained."""
    if kind is Scaling.RANK:
        if start is not None:
            raise OptionError(
                "--scaling rank trains other ranks, and --start has the rank of its adapter; leave one out"
            )
        rank = given.lora_rank or default_rank(method)
        if rank < _LEAST_NUMBER:
            raise OptionError(
                f"--scaling rank trains with a quarter of the rank too, and it is {rank}; give --lora-rank "
                f"{_LEAST_NUMBER} or more"
            )
    if kind is Scaling.EPOCHS and (given.n_epochs or 0) < _LEAST_NUMBER:
        has = "it is not given" if given.n_epochs is None else f"it is {given.n_epochs}"
        raise OptionError(
            f"--scaling epochs trains for a quarter of --n-epochs too, and {has}; give --n-epochs "
            f"{_LEAST_NUMBER} or more"
        )


def check_examples(kind: Scaling, num_examples: int) -> None:
    """Raise OptionError if the file's quarters are too small to train on. num_examples: without duplicates."""
    least = _PARTS[0] * MIN_LINES
    if kind is Scaling.DATA and num_examples < least:
        raise OptionError(
            f"--scaling trains on quarters of at least {MIN_LINES} examples, so it needs {least}, and the training "
            f"file has {counted(num_examples, 'example')} without held-out and repeated lines; add lines or use "
            "--scaling rank"
        )


def whole_size(kind: Scaling, chosen: Chosen, num_examples: int) -> int:
    return {Scaling.DATA: num_examples, Scaling.RANK: chosen.lora_rank, Scaling.EPOCHS: chosen.n_epochs}[kind]


def curve_jobs(kind: Scaling, whole: FinetuningJob, chosen: Chosen, num_examples: int) -> list[CurveJob]:
    """Return the jobs to compare the whole job with. Each has its epochs, batch size, learning rate and rank, except
    for the size that is varied, and its ratio of alpha to rank."""
    order = list(range(num_examples))
    random.Random(f"{whole.seed} parts").shuffle(order)
    jobs = []
    for parts, number in _copies(kind):
        size = whole_size(kind, chosen, num_examples) // parts
        is_data = kind is Scaling.DATA
        examples = sorted(order[(number - 1) * size : number * size]) if is_data else range(num_examples)
        rank = size if kind is Scaling.RANK else chosen.lora_rank
        alpha = whole.hyperparameters.lora_alpha
        given = msgspec.structs.replace(
            whole.hyperparameters,
            n_epochs=size if kind is Scaling.EPOCHS else chosen.n_epochs,
            batch_size=chosen.batch_size,
            lora_rank=rank,
            lora_alpha=None if alpha is None else alpha * rank / chosen.lora_rank,
        )
        job = msgspec.structs.replace(
            whole,
            hyperparameters=given,
            seed=whole.seed + (0 if is_data else number - 1),
            probe=Probe(chosen.learning_rate),
        )
        jobs.append(CurveJob(f"{_NAMES[parts]}-{number}", size, examples, job))
    return jobs


def _copies(kind: Scaling) -> list[tuple[int, int]]:
    """Return (parts of the whole, number of the copy from 1) of each job besides the whole. Copies of ranks and epochs
    have other seeds; a smaller rank is as much work as the whole, and is copied less often."""
    if kind is Scaling.RANK:
        return [(4, 1), (4, 2), (2, 1), (2, 2), (1, 2)]
    return [(parts, number) for parts in _PARTS for number in range(1, parts + 1)]


def count_jobs(kind: Scaling) -> int:
    """Return the number of jobs of the curve, the whole one included."""
    return 1 + len(_copies(kind))


def work_of(kind: Scaling) -> float:
    """Return the work of all jobs of the curve, in units of the whole job's."""
    return 1 + sum(1.0 if kind is Scaling.RANK else 1 / parts for parts, _ in _copies(kind))
