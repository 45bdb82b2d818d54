"""expected_training_time: the time to train on prepared lines, from the plan of a job with default options."""

import sys
from collections.abc import Sequence

from engine.command_io.finetuning.config import TrainingConfig
from engine.command_io.finetuning.job import JobFolder, TrainingMethod
from engine.command_io.finetuning.plan import TrainingPlan
from engine.config import EngineConfig
from engine.errors import HeadraceError, StartupError
from engine.wording import gib
from server.commands.finetune import write_files
from server.commands.simulate.hardware import answer_from
from server.data.preparation import KeptLine
from server.data.report import TrainingTime
from server.finetuning.scaling.training_report import training_time
from server.finetuning.scores.line_scores import METHODS
from server.live.machine import MachineSampler

_TOKEN_BYTES = 36  # of an id in a list of integers


def expected_training_time(
    folder: JobFolder, model: str, train: Sequence[KeptLine], valid: Sequence[KeptLine], num_tokens: int
) -> TrainingTime | None:
    """Return the time that `headrace finetune` takes with its default options; None for lines whose training cannot be
    planned, with the reason on stderr.

    folder: describes the model on disk; the job is written to it. num_tokens: tokens of the lines.
    """
    try:
        return _planned(folder, model, train, valid, num_tokens)
    except HeadraceError as error:
        reason = str(error)
    except OSError as error:  # the lines are written by now
        reason = f"cannot write the job to {folder.path}: {error.strerror}; set TMPDIR to a folder with more room"
    sys.stderr.write(f"headrace: no training time is estimated: {reason}\n")
    return None


def _planned(
    folder: JobFolder, model: str, train: Sequence[KeptLine], valid: Sequence[KeptLine], num_tokens: int
) -> TrainingTime:
    if not train:
        raise StartupError("no line is left for training")
    method = METHODS[train[0].kind]
    if method is TrainingMethod.REINFORCEMENT:
        raise StartupError("the length of answers in reinforcement is not known before")
    free = MachineSampler({}).sample().memory_free
    needed = num_tokens * _TOKEN_BYTES
    if free is not None and needed > free:
        raise StartupError(
            f"the trainer holds {num_tokens:,} tokens in {gib(needed)}, and {gib(free)} is free; train on parts of them"
        )
    config = TrainingConfig(out="plan", method=method)
    files = [b"\n".join(line.data for line in lines) + b"\n" if lines else None for lines in (train, valid)]
    assert files[0] is not None
    write_files(folder, config, EngineConfig(model=model), None, files[0], files[1])
    try:
        return training_time(answer_from("engine.finetuning.plan", str(folder.path), TrainingPlan))
    except SystemExit:
        raise StartupError("the reason is above") from None
