"""read_known_rows: reads decisions with known answers, and validates all before the first is computed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.errors import InvalidRequest, OptionError
from server.calibration.fitting import KnownAnswer, TooFewAnswers, check_answers
from server.decisions.decision import Kind, Question
from server.decisions.openai_form import decision_of
from server.endpoints.decisions import DECISIONS

_MAX_REPORTED = 5  # faults; the others are only counted
_MAX_SHOWN = 80  # characters of an answer


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    body: dict[str, Any]
    answers: list[bool | int | str | None]


@dataclass(frozen=True, slots=True)
class KnownRow:
    """A decision and its right answers. number: of the line, from 1. input_id: the same for equal inputs. right: the
    index of each question's right label, None where it is not known; 0 is a predicate's `true`."""

    number: int
    body: dict[str, Any]
    input_id: str
    questions: Sequence[tuple[Kind, str | None]]
    right: Sequence[int | None]


class _Fault(Exception):
    """A line that is not a row."""


def read_known_rows(path: str, *, min_mass: float, max_line_bytes: int) -> list[KnownRow]:
    """Read all rows. Raises OptionError for lines that are none, with their numbers."""
    rows, faults = [], []
    try:
        with open(path, "rb") as file:
            for number, data in enumerate(file, start=1):
                if not data.strip():
                    continue
                try:
                    rows.append(_row(number, data, min_mass, max_line_bytes))
                except _Fault as fault:
                    faults.append(f"line {number}: {fault}")
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}; give another file of rows") from None
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:_MAX_REPORTED])
        rest = f"\n  and {len(faults) - _MAX_REPORTED:,} more" if len(faults) > _MAX_REPORTED else ""
        raise OptionError(f"{path} has lines that are not rows; nothing was computed{shown}{rest}")
    if not rows:
        raise OptionError(f'{path} has no rows; write a JSON object with "body" and "answers" on each line')
    return rows


def check_known_rows(rows: Sequence[KnownRow]) -> dict[str, str]:
    """Return the kinds of questions that have too few known answers, with the reasons. Raises OptionError if no kind
    has enough: nothing need be computed to know that."""
    known: dict[Kind, list[KnownAnswer]] = {}
    for row in rows:
        for (kind, name), right in zip(row.questions, row.right, strict=True):
            if right is not None:
                known.setdefault(kind, []).append(KnownAnswer(row.input_id, name, (), right))
    too_few = {}
    for kind, answers in known.items():
        try:
            check_answers(answers, is_predicate=kind is Kind.PREDICATE)
        except TooFewAnswers as error:
            too_few[str(kind)] = str(error)
    if len(too_few) == len(known):
        reasons = "".join(f"\n  {kind}: {why}" for kind, why in too_few.items()) or " all answers are null"
        raise OptionError(f"there is nothing to calibrate; nothing was computed:{reasons}")
    return too_few


def _row(number: int, data: bytes, min_mass: float, max_line_bytes: int) -> KnownRow:
    if len(data) > max_line_bytes:
        raise _Fault(f"it has {len(data):,} bytes; the limit is {max_line_bytes:,} (--max-request-bytes)")
    try:
        line = msgspec.json.decode(data, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _Fault(f'{error}; write {{"body": a request to /v1/decisions, "answers": [...]}}') from None
    try:
        decision = decision_of(DECISIONS.body(line.body), min_mass)
    except InvalidRequest as error:
        raise _Fault(f"body: {error}") from None
    questions = decision.questions
    if len(line.answers) != len(questions):
        raise _Fault(f"{len(line.answers)} answers to {len(questions)} questions; give one for each, null if unknown")
    right = [_right(index, question, line.answers[index]) for index, question in enumerate(questions)]
    input_id = hashlib.blake2b(decision.state.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return KnownRow(number, line.body, input_id, [(question.kind, question.name) for question in questions], right)


def _right(index: int, question: Question, answer: bool | int | str | None) -> int | None:
    """Return the index of the right label."""
    if answer is None:
        return None
    for number, value in enumerate(_answers(question)):
        if type(value) is type(answer) and value == answer:
            return number
    known = [_shown(value) for value in _answers(question)]
    listed = ", ".join(known) if len(known) <= 5 else f"{known[0]}, {known[1]}, ..., {known[-1]}"
    raise _Fault(
        f"answers[{index}] is {_shown(answer)}, but questions[{index}], a {question.kind}, has the answers {listed}; "
        "give one of these, or null"
    )


def _answers(question: Question) -> Sequence[bool | int | str]:
    """Return each label's answer in a row."""
    match question.kind:
        case Kind.PREDICATE:
            return [True, False]
        case Kind.CHOICE:
            return [option.value for option in question.options]
        case Kind.SCORE:
            return range(len(question.options))


def _shown(answer: bool | int | str) -> str:
    shown = msgspec.json.encode(answer).decode()
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
