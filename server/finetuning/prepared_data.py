"""prepare_data: the lines of a job's training file that pass the steps of its data_preparation."""

import asyncio
import codecs
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from engine.command_io.finetuning.items import TrainingItem
from engine.command_io.finetuning.job import (
    FinetuningJob,
    JobFolder,
    TrainingMethod,
    write_atomically,
    write_parts_atomically,
)
from engine.command_io.finetuning.plan import TrainingPlan
from engine.errors import InvalidRequest
from server.data.formats import decoded, paragraphs
from server.data.lines import FaultyData, parse_line
from server.data.memory import LineMemory, TooManyLines
from server.data.preparation import FaultyLines, Preparation, TooManyRemoved
from server.data.report import DataReport, spread_of
from server.finetuning.examples import Example
from server.finetuning.faults import FileFault
from server.finetuning.preparation import FaultyFile
from server.finetuning.scaling.training_report import training_time
from server.finetuning.scores.judge import judge_of
from server.finetuning.scores.line_questions import AnswerLog
from server.finetuning.scores.line_scores import LineScorer
from server.finetuning.scores.model_steps import ModelSteps
from server.jobs.answers import AnswerBodies

VALIDATION_FILE = "validation_file"
EvaluationFile = tuple[str, bytes]  # the file's name in messages, and its content


@dataclass(frozen=True, slots=True)
class ServedAnswers:
    """Access of a preparation to served models. scorer: makes the requests that score lines. answer: answers requests
    that score or judge."""

    scorer: LineScorer
    answer: AnswerBodies


def prepare_data(
    folder: JobFolder,
    job: FinetuningJob,
    train: bytes,
    evaluations: Sequence[EvaluationFile],
    max_bytes: int,
    served: ServedAnswers | None,
) -> tuple[bytes, str]:
    """Return the training file with blank lines in place of removed ones, so that later faults name its own lines, and
    a summary. Write the report and the prepared file to the folder; the report also if too many lines are removed.

    job: with data_preparation. max_bytes: memory that this may take. served: None to score and judge no line.
    Raises FaultyFile, also for a file with more lines than fit into the memory, InvalidRequest if too many lines are
    removed, StartupError if a model fails, and OSError.
    """
    options = job.hyperparameters.data_preparation
    assert options is not None
    # The file itself is in memory, and at the end what is left of it once more.
    budget = LineMemory(max_bytes - 2 * len(train), len(train))
    preparation = Preparation(options, ["training_file"], job.seed, budget=budget)
    is_text = is_plain_text(train) and job.method is TrainingMethod.PRETRAINING
    for name, content in evaluations:
        try:
            preparation.add_evaluation(name, _numbered(content, is_text=is_plain_text(content)))
        except FaultyLines as error:
            raise _faulty_evaluation(name, error) from None
    try:
        for number, line in _numbered(train, is_text=is_text):
            preparation.add(0, number, line)
        report = preparation.finish()
    except FaultyLines as error:
        raise FaultyFile([FileFault(message, number) for _, number, message in error.faults]) from None
    except TooManyLines as error:
        raise FaultyFile([FileFault(str(error))]) from None
    check = partial(_check_removed, folder, preparation)
    check()
    if served is not None:
        try:
            steps = ModelSteps(preparation, served.answer, check, AnswerLog(folder.answered))
            asyncio.run(_score_and_judge(steps, served.scorer))
        except FaultyLines as error:
            raise FaultyFile([FileFault(message, number) for _, number, message in error.faults]) from None
        except TooManyLines as error:
            raise FaultyFile([FileFault(str(error))]) from None
    if is_text:
        texts = [parse_line(line.data, line.number)[0].value["text"] for line in preparation.kept]
        prepared = "\n\n".join(texts).encode() + b"\n"
        if not is_plain_text(prepared):  # its first text starts with a bracket, so it would be read as JSON lines
            prepared = json.dumps({"text": "\n\n".join(texts)}, ensure_ascii=False).encode() + b"\n"
        write_atomically(folder.prepared, prepared)
        return prepared, summary_of(report)
    write_parts_atomically(folder.prepared, (line.data + b"\n" for line in preparation.kept))
    lines = [b""] * (preparation.kept[-1].number)
    for kept in preparation.kept:
        lines[kept.number - 1] = kept.data
    return b"\n".join(lines) + b"\n", summary_of(report)


async def _score_and_judge(steps: ModelSteps, scorer: LineScorer) -> None:
    """Take the lines through the steps that their options demand."""
    options = steps.preparation.options
    if options.semantic_model is not None:
        await steps.deduplicate()
    if options.needs_scores:
        await steps.score(scorer)
    if (grader := judge_of(options)) is not None:
        await steps.judge(grader)


def _check_removed(folder: JobFolder, preparation: Preparation) -> None:
    """Write the report, and raise InvalidRequest if too many lines are removed."""
    _write_report(folder, preparation.report)
    try:
        preparation.check_removed()
    except TooManyRemoved as error:
        raise InvalidRequest(f"training_file: {error}", param="training_file") from None


def add_tokens(folder: JobFolder, examples: Sequence[Example]) -> None:
    """Add the tokens of the examples, as they are trained on, to the report in the folder. Raises OSError."""
    report = _read_report(folder)
    report.tokens = spread_of([each.num_tokens for each in examples])
    report.num_trained_tokens = sum(each.num_trained for each in examples if isinstance(each, TrainingItem))
    _write_report(folder, report)


def add_training_time(folder: JobFolder, plan: TrainingPlan) -> None:
    """Add the expected time of the job's training to the report in the folder. Raises OSError."""
    report = _read_report(folder)
    report.training = training_time(plan)
    _write_report(folder, report)


def _read_report(folder: JobFolder) -> DataReport:
    return msgspec.json.decode(folder.data_report.read_bytes(), type=DataReport)


def _write_report(folder: JobFolder, report: DataReport) -> None:
    write_atomically(folder.data_report, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def is_plain_text(data: bytes) -> bool:
    """Whether a file is a plain text, and not JSON lines."""
    start = data.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    return bool(start) and start != b"{"


def _numbered(data: bytes, *, is_text: bool) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, JSON of the line). Raises FaultyFile for plain text that is not UTF-8."""
    if is_text:
        try:
            yield from paragraphs(decoded(data))
        except FaultyData as error:
            raise FaultyFile([FileFault(str(error))]) from None
        return
    with io.BytesIO(data.removeprefix(codecs.BOM_UTF8)) as lines:  # a list of all lines would be a second copy
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line


def _faulty_evaluation(name: str, error: FaultyLines) -> FaultyFile | InvalidRequest:
    if name != VALIDATION_FILE:
        return InvalidRequest(f"decontaminate_against: {error}", param="decontaminate_against")
    fault = FaultyFile([FileFault(message, number) for _, number, message in error.faults])
    fault.is_validation = True
    return fault


def summary_of(report: DataReport) -> str:
    """Return a sentence with the counts of a preparation."""
    removed = ", ".join(f"{name} {each.num:,}" for name, each in report.removed.items()) or "none"
    masked = "".join(f"; masked {name} {count:,}" for name, count in report.masked.items())
    return f"data preparation: {report.num_lines:,} lines, removed {report.num_removed:,} ({removed}){masked}"
