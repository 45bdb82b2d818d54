"""The wording of questions: a change of it needs another version, by which calibrations are told apart."""

import hashlib

import pytest

from server.decisions.decision import Kind, LabelOption, Question
from server.decisions.wording import PLAIN_END, QUESTION_BEGIN, STATE_BEGIN, VERSION, word

pytestmark = pytest.mark.fast

_OPTIONS = [LabelOption("raft", "it floats"), LabelOption(value=True), LabelOption("true")]
_QUESTIONS = [
    Question(Kind.PREDICATE, "It floats.", "q"),
    *(
        Question(kind, instructions, "q", _OPTIONS)
        for kind in (Kind.PREDICATE, Kind.CHOICE, Kind.SCORE)
        for instructions in ("What is it?", "")
    ),
]


def test_a_changed_wording_has_another_version() -> None:
    worded = [word(question, is_numbered=numbered) for question in _QUESTIONS for numbered in (False, True)]
    read = repr([STATE_BEGIN, QUESTION_BEGIN, PLAIN_END, *((each.text, each.labels) for each in worded)])
    digest = hashlib.blake2b(read.encode(), digest_size=8).hexdigest()
    assert (VERSION, digest) == ("3", "3f99a77f036277d5"), (
        "give the changed wording another VERSION; then change both values here"
    )
