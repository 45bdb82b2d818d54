"""`headrace finetune --scaling`: trains the whole job and its parts, and reports the curve of their losses."""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from engine.command_io.finetuning.job import FinetuningJob, JobFolder, Scaling, TrainingMethod, write_atomically
from server.finetuning.adapter_files import CONFIG_FILE
from server.finetuning.scaling.design import (
    UNITS,
    CurveJob,
    check_examples,
    count_jobs,
    curve_jobs,
    whole_size,
    work_of,
)
from server.finetuning.scaling.points import (
    ScalingPoint,
    chosen_hyperparameters,
    files_digest,
    measure_point,
    read_point,
    save_point,
)
from server.finetuning.scaling.power_law import fit_power_law
from server.finetuning.scaling.report import curve_report

Train = Callable[[JobFolder], int]


def train_curve(folder: JobFolder, kind: Scaling, train: Train) -> int:
    """Train the prepared job of `folder`, and then its parts in the folder `scaling`; print the report and store it.

    Jobs that have ended are not trained again. train: trains the job of a folder, and returns the exit code. Returns
    the first exit code that is not 0. Raises OptionError for too few examples, StartupError and OSError.
    """
    lines = folder.train.read_bytes().splitlines()
    check_examples(kind, len(lines))
    where = folder.out / "scaling"
    where.mkdir(exist_ok=True)
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob)
    num_jobs = count_jobs(kind)
    sys.stderr.write(
        f"--scaling {kind} trains {num_jobs} jobs, {work_of(kind):g} times the work of this one alone\n"
        f"Job 1 of {num_jobs}: the whole\n"
    )
    whole = _whole(folder, kind, where / "whole.json", len(lines), train)
    if isinstance(whole, int):
        return whole
    points = [whole]
    jobs = curve_jobs(kind, job, chosen_hyperparameters(folder), len(lines))
    for number, each in enumerate(jobs, 2):
        sys.stderr.write(f"Job {number} of {num_jobs}: {each.name}, {UNITS[kind]} {each.size:,}\n")
        point = _part(folder, each, where, lines, train)
        if isinstance(point, int):
            return point
        points.append(point)
    pairs = [(point.size, point.loss) for point in points]
    law = fit_power_law(pairs)
    report = {"scaling": kind, "points": points, "law": dataclasses.asdict(law)}
    write_atomically(where / "report.json", msgspec.json.format(msgspec.json.encode(report)))
    per = "pair" if job.method is TrainingMethod.DPO else "token"
    sys.stderr.write(curve_report(law, pairs, UNITS[kind], per))
    return 0


def _whole(folder: JobFolder, kind: Scaling, record: Path, num_examples: int, train: Train) -> ScalingPoint | int:
    """Return the whole job's point, or the exit code of a training that failed."""
    digest = files_digest({path.name: _content(path) for path in _inputs(folder)})
    point = read_point(record, digest)
    if point is not None and (folder.out / CONFIG_FILE).exists():
        size = whole_size(kind, chosen_hyperparameters(folder), num_examples)  # the point may be of another curve
        return msgspec.structs.replace(point, size=size)
    if code := train(folder):
        return code
    size = whole_size(kind, chosen_hyperparameters(folder), num_examples)
    return _saved(record, measure_point(folder, digest, size))


def _part(folder: JobFolder, part: CurveJob, where: Path, lines: Sequence[bytes], train: Train) -> ScalingPoint | int:
    """Return the point of another job of the curve, or the exit code of a training that failed. Its folder is removed
    when the point is stored."""
    files = {path.name: _content(path) for path in (folder.valid, folder.prompts)}
    files[folder.train.name] = b"".join(lines[index] + b"\n" for index in part.examples)
    files[folder.job.name] = msgspec.json.encode(part.job)
    digest, record = files_digest(files), where / f"{part.name}.json"
    point = read_point(record, digest)
    if point is not None:
        return point
    own = JobFolder(where / part.name / "job")
    if own.path.exists() and files_digest({path.name: _content(path) for path in _inputs(own)}) != digest:
        shutil.rmtree(own.out)  # of other options or examples; it cannot be continued
    own.path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(own.path / name, content)
    if code := train(own):
        return code
    point = _saved(record, measure_point(own, digest, part.size))
    shutil.rmtree(own.out)
    return point


def _inputs(folder: JobFolder) -> tuple[Path, ...]:
    return folder.train, folder.valid, folder.prompts, folder.job


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _saved(record: Path, point: ScalingPoint) -> ScalingPoint:
    save_point(record, point)
    return point
