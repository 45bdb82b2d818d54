"""answer_rows: the raw probabilities of rows, from an engine that does nothing else."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from engine.errors import EngineStopped
from server.batches.running import run_body
from server.calibration.fitting import KnownAnswer
from server.commands.calibrate.rows import KnownRow
from server.context import ServerContext
from server.decisions.decision import Kind
from server.endpoints.decisions import DECISIONS
from server.jobs.answers import BodyAnswer
from server.keys.caller import ANYBODY

_ROWS_PER_SLOT = 2  # of the engine, so that a finished row is immediately followed by another


class _Probability(msgspec.Struct):
    probability: float


class _Answer(msgspec.Struct):
    """An answer to a question of any kind; a refusal has neither field."""

    probability: float | None = None
    probabilities: list[_Probability] = []

    @property
    def of_labels(self) -> list[float]:
        if self.probability is not None:
            return [self.probability, 1 - self.probability]
        return [each.probability for each in self.probabilities]


class _Body(msgspec.Struct):
    answers: list[_Answer]


class _Message(msgspec.Struct):
    message: str


class _ErrorBody(msgspec.Struct):
    error: _Message


@dataclass(slots=True)
class RowResults:
    """Known answers by kind, with the model's probabilities.

    num_refused: questions with a known answer that the model refuses. failures: line numbers and errors.
    """

    known: dict[Kind, list[KnownAnswer]] = field(default_factory=lambda: {kind: [] for kind in Kind})
    num_refused: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    num_rows: int = 0

    def add(self, row: KnownRow, answer: BodyAnswer) -> None:
        self.num_rows += 1
        if not answer.is_completed:
            error = msgspec.json.decode(answer.body, type=_ErrorBody).error
            self.failures.append((row.number, error.message))
            return
        answers = msgspec.json.decode(answer.body, type=_Body).answers
        for (kind, name), right, each in zip(row.questions, row.right, answers, strict=True):
            if right is None:
                continue
            if probabilities := each.of_labels:
                self.known[kind].append(KnownAnswer(row.input_id, name, probabilities, right))
            else:
                self.num_refused += 1


async def answer_rows(
    context: ServerContext, model: str, rows: Sequence[KnownRow], on_answer: Callable[[int], None]
) -> RowResults:
    """Compute all rows, as many in parallel as keep the engine busy. on_answer: called with the number of those done.

    Returns early if the engine is stopped.
    """
    results = RowResults()
    left = iter(rows)
    num_workers = _ROWS_PER_SLOT * context.models.default.client.info.max_num_seqs
    async with asyncio.TaskGroup() as group:
        for _ in range(min(num_workers, len(rows))):
            group.create_task(_answer_some(context, model, left, results, on_answer))
    return results


async def _answer_some(
    context: ServerContext, model: str, rows: Iterator[KnownRow], results: RowResults, on_answer: Callable[[int], None]
) -> None:
    for row in rows:
        body = {name: value for name, value in row.body.items() if name != "timeout"}
        try:
            answer = await run_body(context, ANYBODY, DECISIONS.path, {**body, "model": model, "calibrated": False})
        except EngineStopped:
            return
        results.add(row, answer)
        on_answer(results.num_rows)
