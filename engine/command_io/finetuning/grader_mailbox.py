"""The mailbox of a job: the trainer's questions to grading models, and their answers.

The mailbox is two files in the job's folder, each written as a whole: the trainer writes `questions` and waits, and the
server writes `answers`. Questions of a trainer that was killed may be left; the next trainer's have another id.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from engine.command_io.finetuning.graders.grading import AskAll, ScoreAnswer, ScoreQuestion
from engine.command_io.finetuning.job import JobFolder, write_atomically

_POLL_S = 0.05
# Limits of one file: a step or a validation could have millions of questions, each a request to the server.
_MAX_QUESTIONS = 512
_MAX_CHARACTERS = 1 << 24


class Questions(msgspec.Struct, frozen=True):
    """The content of the file `questions`. id: unique, so that the answers can be matched."""

    id: str
    questions: list[ScoreQuestion]


class Answers(msgspec.Struct, frozen=True):
    """The content of the file `answers`. id: the id of the Questions. answers: one per question, in order."""

    id: str
    answers: list[ScoreAnswer]


def asker(folder: JobFolder, *, sleep: Callable[[float], object] = time.sleep) -> AskAll:
    """Return a function that sends questions to the server through the mailbox, in batches, and waits for the answers
    without a timeout. The function raises OSError."""

    def ask(questions: list[ScoreQuestion]) -> list[ScoreAnswer]:
        mail = Questions(secrets.token_hex(8), questions)
        write_atomically(folder.questions, msgspec.json.encode(mail))
        while (answers := _answers(folder, mail.id)) is None:
            sleep(_POLL_S)
        forget_questions(folder)
        return answers

    return lambda questions: [answer for part in _parts(questions) for answer in ask(part)]


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


def _answers(folder: JobFolder, questions_id: str) -> list[ScoreAnswer] | None:
    try:
        found = msgspec.json.decode(folder.answers.read_bytes(), type=Answers)
    except FileNotFoundError:
        return None
    return found.answers if found.id == questions_id else None


def forget_questions(folder: JobFolder) -> None:
    """Empty the mailbox, after the answers were read or the trainer has ended. Raises OSError."""
    folder.questions.unlink(missing_ok=True)
    folder.answers.unlink(missing_ok=True)


def read_questions(folder: JobFolder) -> Questions | None:
    """Return the questions that the trainer waits for; None if it waits for none. Raises OSError."""
    try:
        return msgspec.json.decode(folder.questions.read_bytes(), type=Questions)
    except FileNotFoundError:
        return None


def write_answers(folder: JobFolder, answers: Answers) -> None:
    """Write the answers to the trainer's questions. Raises OSError."""
    write_atomically(folder.answers, msgspec.json.encode(answers))
