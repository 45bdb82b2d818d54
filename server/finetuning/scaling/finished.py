"""finished_curve: the curve of jobs that have ended, each in an own folder, if they differ in one size alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.command_io.finetuning.job import JobFolder, Scaling
from engine.errors import OptionError, StartupError
from server.finetuning.preparation import PreparationReport
from server.finetuning.scaling.design import UNITS, whole_size
from server.finetuning.scaling.points import chosen_hyperparameters, compares_pairs, held_out_losses

_SAME_LOSS = 1e-4  # between held-out losses before training, which are of the same base model and lines


@dataclass(frozen=True, slots=True)
class FinishedCurve:
    """Points (size, held-out loss) of finished jobs. kind: the size that they differ in. per: whose mean a loss is,
    "token" or "pair"."""

    kind: Scaling
    per: str
    points: list[tuple[float, float]]


def finished_curve(paths: Sequence[str]) -> FinishedCurve:
    """Return the curve of the jobs in the folders: each an --out of `headrace finetune`, or DATA_DIR/fine-tuning/JOB.

    Raises OptionError for a folder that is missing, is given twice or has no finished job with a held-out loss, for
    jobs of different held-out lines or models, and for jobs that differ in none or several of their sizes.
    """
    given = [Path(path).expanduser().resolve() for path in paths]
    if repeated := [path for index, path in enumerate(given) if path in given[:index]]:
        raise OptionError(f"--jobs has {repeated[0]} twice, which would count its noise too low; give each once")
    sizes: list[dict[Scaling, int]] = []
    losses: list[float] = []
    before: list[float] = []
    for path in paths:
        folder = JobFolder(Path(path).expanduser() / "job")
        if not folder.path.parent.is_dir():
            raise OptionError(f"--jobs {path}: there is no such folder; name the --out of a headrace finetune")
        try:
            first, last = held_out_losses(folder)
            chosen, count = chosen_hyperparameters(folder), _num_examples(folder)
        except StartupError as error:
            raise OptionError(f"--jobs {path}: {error}") from error
        sizes.append({kind: whole_size(kind, chosen, count) for kind in Scaling})
        losses.append(last)
        before.append(first)
        if abs(first - before[0]) > _SAME_LOSS:
            raise OptionError(
                f"--jobs: before training, the held-out loss of {paths[0]} was {before[0]:.4f}, and that of {path} "
                f"{first:.4f}: they have other models or validation files; give jobs that share both"
            )
    varied = [kind for kind in Scaling if len({each[kind] for each in sizes}) > 1]
    if len(varied) != 1:
        found = " and ".join(UNITS[kind] for kind in varied) or "none of examples, rank and epochs"
        raise OptionError(
            f"--jobs: the jobs differ in {found}; a curve needs jobs that differ in one of them: train with the same "
            "--n-epochs and --lora-rank on several sizes of a file, or vary one of the two on the same file"
        )
    kind = varied[0]
    per = "pair" if compares_pairs(JobFolder(Path(paths[0]).expanduser() / "job")) else "token"
    return FinishedCurve(kind, per, [(each[kind], loss) for each, loss in zip(sizes, losses, strict=True)])


def _num_examples(folder: JobFolder) -> int:
    try:
        return msgspec.json.decode(folder.report.read_bytes(), type=PreparationReport).num_items
    except (OSError, msgspec.DecodeError) as error:
        raise StartupError(f"{folder.report} cannot be read ({error}); give a folder of a finished job") from error
