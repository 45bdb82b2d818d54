"""Answering: what a trainer asks models that grade is answered by this server's."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from engine.command_io.finetuning.grader_mailbox import Answers, Questions, read_questions, write_answers
from engine.command_io.finetuning.graders.grading import ScoreAnswer, ScoreQuestion
from engine.command_io.finetuning.job import JobFolder
from engine.errors import EngineStopped
from server.finetuning.scoring import ENDPOINT, chat_body, scored, unanswered

# The status and body of the answer to an owner's request, by endpoint and body; None if no key is the owner's now.
AnswerChat = Callable[[str, str, dict[str, Any]], Awaitable[tuple[int, bytes] | None]]

_NO_KEY = "the key that made the job is not accepted any more"


class Answering:
    """Of one process. The questions of a file, whose number the trainer limits, are asked at once; the next ones come
    when these are answered."""

    def __init__(self, folder: JobFolder, owner: str, answer_chat: AnswerChat) -> None:
        self._folder = folder
        self._owner = owner
        self._answer_chat = answer_chat
        self._task: asyncio.Task[None] | None = None
        self._last_id: str | None = None  # of questions that are answered, or will be

    @property
    def is_busy(self) -> bool:
        """Whether something has been asked that is not answered yet."""
        return self._task is not None and not self._task.done()

    async def look(self) -> None:
        """Begin to answer what has been asked since. Raises OSError."""
        if self._task is not None:
            if not self._task.done():
                return
            task, self._task = self._task, None
            task.result()
        asked = await asyncio.to_thread(read_questions, self._folder)
        if asked is not None and asked.id != self._last_id:
            self._last_id = asked.id
            self._task = asyncio.create_task(self._answer(asked), name="answers for a trainer")

    async def end(self) -> None:
        """Answer no more: the process is gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _answer(self, asked: Questions) -> None:
        tasks = [asyncio.create_task(self._score(question)) for question in asked.questions]
        try:
            answers = await asyncio.gather(*tasks)
        except EngineStopped:  # with the server, and the trainer; the next ones ask again
            return
        finally:
            for task in tasks:
                task.cancel()
        await asyncio.to_thread(write_answers, self._folder, Answers(asked.id, answers))

    async def _score(self, question: ScoreQuestion) -> ScoreAnswer:
        """In a task of its own, as the answer to a batch's line is."""
        found = await self._answer_chat(self._owner, ENDPOINT, chat_body(question))
        return unanswered(_NO_KEY) if found is None else scored(*found).answer
