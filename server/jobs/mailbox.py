"""Mailbox: answers the questions of a job's process by this server's models."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from engine.command_io.finetuning.job import JobFolder
from engine.command_io.finetuning.mailbox import Mail, read_questions, write_answers
from engine.errors import EngineStopped

NO_KEY = "the key that made the job is not accepted any more; create the job again with another key"

Q = TypeVar("Q")


class Mailbox(Generic[Q]):
    """Runs the requests of a job's process, and writes the answers back.

    Questions and answers are exchanged as files. The questions of one file, whose number the process limits, run in
    parallel; the process writes the next file when it has read the answers.
    """

    def __init__(self, folder: JobFolder, kind: type[Q], answer: Callable[[Q], Awaitable[Any]]) -> None:
        """kind: type of a question. answer: answers a question; called in a task of its own."""
        self._folder = folder
        self._kind = kind
        self._answer_one = answer
        self._task: asyncio.Task[None] | None = None
        self._last_id: str | None = None  # of questions that are answered, or will be
        self.num_answered = 0  # questions

    @property
    def is_busy(self) -> bool:
        """Whether requests are running."""
        return self._task is not None and not self._task.done()

    async def look(self) -> None:
        """Check for a new file of questions, and start to answer them. Raises OSError."""
        if self._task is not None:
            if not self._task.done():
                return
            task, self._task = self._task, None
            task.result()
        questions = await asyncio.to_thread(read_questions, self._folder, self._kind)
        if questions is not None and questions.id != self._last_id:
            self._last_id = questions.id
            self._task = asyncio.create_task(self._answer(questions), name="answers for a job's process")

    async def close(self) -> None:
        """Cancel running requests, after the process has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _answer(self, questions: Mail[Q]) -> None:
        tasks = [asyncio.create_task(self._answered(question)) for question in questions.items]
        try:
            answers = await asyncio.gather(*tasks)
        except EngineStopped:  # with the server, and the process; the next process asks again
            return
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.to_thread(write_answers, self._folder, Mail(questions.id, answers))

    async def _answered(self, question: Q) -> Any:
        answer = await self._answer_one(question)
        self.num_answered += 1
        return answer
