"""LineRunner: runs the requests of a file on an engine that does nothing else."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from engine.errors import EngineStopped
from server.batches.answers import answer_line
from server.batches.running import run_body
from server.commands.batch.input_file import InputFile, InputLine
from server.context import ServerContext
from server.jobs.answers import AnswerUsage
from server.keys.caller import ANYBODY

_LINES_PER_SLOT = 2  # of the engine, so that a finished line is immediately followed by another


@dataclass(slots=True)
class LineCounts:
    """Numbers of completed and failed lines in this run, and their token usage."""

    completed: int = 0
    failed: int = 0
    usage: AnswerUsage = field(default_factory=AnswerUsage)


class LineRunner:
    """Runs lines in the given order, as many in parallel as keep the engine busy, and stores answers as they arrive."""

    def __init__(
        self,
        context: ServerContext,
        file: InputFile,
        store: Callable[[bytes, bool], None],
        on_answer: Callable[[LineCounts], None],
    ) -> None:
        """store: called before on_answer, with the output line and whether the request succeeded; may raise
        StartupError."""
        self._context = context
        self._file = file
        self._store = store
        self._on_answer = on_answer
        self._counts = LineCounts()
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, lines: Iterable[InputLine]) -> LineCounts:
        """Run the lines, and return once all are answered. Cancellation aborts the running lines."""
        limit = _LINES_PER_SLOT * self._context.models.default.client.info.max_num_seqs
        try:
            for line in lines:
                while len(self._running) >= limit:
                    await self._wait_for_some()
                self._running.add(asyncio.create_task(self._answer(line), name=f"line {line.number}"))
            while self._running:
                await self._wait_for_some()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        return self._counts

    async def _wait_for_some(self) -> None:
        done, self._running = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        if errors := [error for task in done if (error := task.exception()) is not None]:
            raise errors[0]  # ends the command

    async def _answer(self, line: InputLine) -> None:
        try:
            answer = await run_body(self._context, ANYBODY, line.endpoint, self._file.body(line))
        except EngineStopped:
            return
        self._store(answer_line(line.custom_id, answer), answer.is_completed)
        self._counts.completed += answer.is_completed
        self._counts.failed += not answer.is_completed
        self._counts.usage.add(answer.usage)
        self._on_answer(self._counts)
