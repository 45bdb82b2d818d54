"""The mailbox of a job: questions of its process to models that a server serves, and the answers.

The mailbox is two files in the job's folder, each written as a whole: the process writes `questions` and waits, and the
server writes `answers`. Questions of a process that was killed may be left; the next process's have another id.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from engine.command_io.finetuning.graders.grading import AskAll, ScoreAnswer, ScoreQuestion
from engine.command_io.finetuning.job import JobFolder, write_atomically

_POLL_S = 0.05
# Limits of one file: a step or a validation could have millions of questions, each a request to the server.
_MAX_QUESTIONS = 512
_MAX_CHARACTERS = 1 << 24

Q = TypeVar("Q")
A = TypeVar("A")


class Mail(msgspec.Struct, Generic[Q], frozen=True):
    """The content of one of the two files. id: chosen for the questions, and repeated with their answers, which are in
    the same order."""

    id: str
    items: list[Q]


class BodyQuestion(msgspec.Struct, frozen=True):
    """A question that is the JSON body of a request. path: of the endpoint that answers it."""

    path: str
    body: dict[str, Any]


def asker(folder: JobFolder, *, sleep: Callable[[float], object] = time.sleep) -> AskAll:
    """Return a function that sends a trainer's questions to grading models, in batches, and waits for the answers
    without a timeout. The function raises OSError."""

    def ask(questions: Sequence[ScoreQuestion]) -> list[ScoreAnswer]:
        parts = [ask_mail(folder, part, ScoreAnswer, sleep=sleep) for part in _parts(questions)]
        return [answer for part in parts for answer in part]

    return ask


def ask_mail(
    folder: JobFolder, questions: Sequence[Q], kind: type[A], *, sleep: Callable[[float], object] = time.sleep
) -> list[A]:
    """Send questions to the server in one file, and wait for the answers, which are of the given kind. Raises
    OSError."""
    mail = Mail(secrets.token_hex(8), list(questions))
    write_atomically(folder.questions, msgspec.json.encode(mail))
    while (answers := _answers(folder, mail.id, kind)) is None:
        sleep(_POLL_S)
    forget_questions(folder)
    return answers


def _parts(questions: Sequence[ScoreQuestion]) -> Iterator[list[ScoreQuestion]]:
    part, num_characters = list[ScoreQuestion](), 0
    for question in questions:
        size = sum(len(message["content"]) for message in question.messages)
        if part and (len(part) == _MAX_QUESTIONS or num_characters + size > _MAX_CHARACTERS):
            yield part
            part, num_characters = [], 0
        part.append(question)
        num_characters += size
    if part:
        yield part


def _answers(folder: JobFolder, questions_id: str, kind: type[A]) -> list[A] | None:
    try:
        found = msgspec.json.decode(folder.answers.read_bytes(), type=Mail[kind])  # type: ignore[valid-type]
    except FileNotFoundError:
        return None
    return found.items if found.id == questions_id else None


def forget_questions(folder: JobFolder) -> None:
    """Empty the mailbox, after the answers were read or the process has ended. Raises OSError."""
    folder.questions.unlink(missing_ok=True)
    folder.answers.unlink(missing_ok=True)


def read_questions(folder: JobFolder, kind: type[Q]) -> Mail[Q] | None:
    """Return the questions, of the given kind, that the process waits for; None if it waits for none. Raises
    OSError."""
    try:
        return msgspec.json.decode(folder.questions.read_bytes(), type=Mail[kind])  # type: ignore[valid-type]
    except FileNotFoundError:
        return None


def write_answers(folder: JobFolder, answers: Mail[A]) -> None:
    """Write the answers to the process's questions. Raises OSError."""
    write_atomically(folder.answers, msgspec.json.encode(answers))
