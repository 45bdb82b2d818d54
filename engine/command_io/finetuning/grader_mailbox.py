"""The mailbox of a job: what its trainer asks models that grade, and what they answer.

Two files in the job's folder, of which each is written as a whole: the trainer writes `questions` and waits, the server
writes `answers` to them. A trainer that was killed leaves questions that nobody waits for any more; the next one's have
another id.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from engine.command_io.finetuning.graders.grading import AskAll, ScoreAnswer, ScoreQuestion
from engine.command_io.finetuning.job import JobFolder, write_atomically

_LOOK_S = 0.05
# Asked at once: all that a step or a validation asks could be millions, each a request of the server's.
_MAX_QUESTIONS = 512
_MAX_CHARACTERS = 1 << 24


class Questions(msgspec.Struct, frozen=True):
    id: str
    questions: list[ScoreQuestion]


class Answers(msgspec.Struct, frozen=True):
    """id: of the questions, which have an answer each, in their order."""

    id: str
    answers: list[ScoreAnswer]


def asker(folder: JobFolder, *, sleep: Callable[[float], object] = time.sleep) -> AskAll:
    """Asks the server that runs the job, part by part, and waits as long as it takes. Raises OSError."""

    def ask(questions: list[ScoreQuestion]) -> list[ScoreAnswer]:
        asked = Questions(secrets.token_hex(8), questions)
        write_atomically(folder.questions, msgspec.json.encode(asked))
        while (answers := _answers(folder, asked.id)) is None:
            sleep(_LOOK_S)
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
    """None while there are none to these questions."""
    try:
        found = msgspec.json.decode(folder.answers.read_bytes(), type=Answers)
    except FileNotFoundError:
        return None
    return found.answers if found.id == questions_id else None


def forget_questions(folder: JobFolder) -> None:
    """What a process asked that is gone, or was answered, is asked no more. Raises OSError."""
    folder.questions.unlink(missing_ok=True)
    folder.answers.unlink(missing_ok=True)


def read_questions(folder: JobFolder) -> Questions | None:
    """Those that the trainer waits for; None if it waits for none. Raises OSError."""
    try:
        return msgspec.json.decode(folder.questions.read_bytes(), type=Questions)
    except FileNotFoundError:
        return None


def write_answers(folder: JobFolder, answers: Answers) -> None:
    """Raises OSError."""
    write_atomically(folder.answers, msgspec.json.encode(answers))
