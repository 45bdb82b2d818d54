"""The answer of a model that thinks begins behind its thought."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.command_io.finetuning.thoughts import ThoughtMarks, answer_start

pytestmark = pytest.mark.fast

MARKS = ThoughtMarks("<think>", "</think>")
OPEN, CLOSED = "hi<think>\n", "hi<think></think>\n\n"


def _answer(text: str, prompt: str = "hi") -> str:
    ids = [ord(letter) for letter in text]
    return text[answer_start(ids, MARKS, lambda some: "".join(map(chr, some)), prompt=prompt) :]


@pytest.mark.parametrize(
    ("text", "prompt", "answer"),
    [
        ("<think>why</think>yes", "hi", "yes"),
        ("\n<think>why</think>\n\nyes", "hi", "\n\nyes"),
        ("why</think>yes</think>", OPEN, "yes</think>"),
        ("yes", "hi", "yes"),
        ("yes", CLOSED, "yes"),
        ("yes, </think> is a mark", "hi", "yes, </think> is a mark"),
        ("<think>why", "hi", ""),
        ("why", OPEN, ""),
        ("</think>", OPEN, ""),
        ("", "hi", ""),
        ("", OPEN, ""),
    ],
)
def test_a_thought_is_no_part_of_the_answer(text: str, prompt: str, answer: str) -> None:
    assert _answer(text, prompt) == answer


@given(st.text("<think>/ a"), st.text("<think>/ a"))
def test_what_follows_the_first_end_is_the_answer(thought: str, answer: str) -> None:
    text = f"{thought}</think>{answer}"
    assert _answer(text, OPEN) == text.partition("</think>")[2]
