"""AddressedReader: messages to the model itself, tools and the user, however the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.reasoning.harmony import AddressedReader
from server.reasoning.marks import MUSE
from server.reasoning.reader import reasoning_reader
from tests.helpers.message_reading import is_cut_anywhere, read

pytestmark = pytest.mark.fast

THOUGHT = " to=self<|message|>So."
USER = " to=user<|message|>"
NEXT = "<|eom|><|start|>assistant"
CALL = '<|start|>assistant to=add<|message|><atem:invoke name="add">'
TEXTS = [
    *("", "<|start|>", "assistant", " to=self", " to=user", " to=add", "<|message|>", "<|eom|>", "<|eot|>", "<|eo"),
    *("<|", "x", "\n", " ", THOUGHT, USER, NEXT, CALL),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{THOUGHT}{NEXT}{USER}Yes.<|eot|>", ("So.", "Yes.")),
        (f"{THOUGHT}{NEXT}{USER}Yes.", ("So.", "Yes.")),
        (f"{USER}Yes. <thing> <|x to=self", ("", "Yes. <thing> <|x to=self")),
        ("<|message|>Yes.", ("", "Yes.")),
        (f"{THOUGHT}{NEXT}{THOUGHT}{NEXT}{USER}Yes.", ("So.\nSo.", "Yes.")),
        (f'{THOUGHT}{NEXT} to=add<|message|><atem:invoke name="add"><|eot|>', ("So.", f"{CALL}<|eom|>")),
        (f"{THOUGHT}{NEXT}{USER}I look.<|eom|>{CALL}<|eom|>{CALL}", ("So.", f"I look.{CALL}<|eom|>{CALL}")),
        (f"{THOUGHT}<|start|>assistant{USER}Yes.", ("So.", "Yes.")),
        (f"{THOUGHT}{NEXT} to=us", ("So.", "")),
        (" to=us", ("", "")),
        ("Plain text.", ("", "Plain text.")),
        ("<", ("", "<")),
    ],
)
def test_reader_tells_recipients_apart(text: str, expected: tuple[str, str]) -> None:
    assert read(AddressedReader(is_open=False), [text]) == expected
    assert read(AddressedReader(is_open=False), list(text)) == expected


def test_prompt_may_open_the_thought() -> None:
    assert read(AddressedReader(is_open=True), ["So.", f"{NEXT}{USER}Yes."]) == ("So.", "Yes.")


def test_the_marks_of_these_messages_get_this_reader() -> None:
    assert isinstance(reasoning_reader(MUSE, is_open=False), AddressedReader)


@given(st.lists(st.sampled_from(TEXTS), max_size=16), st.booleans())
def test_reader_holds_under_every_split(deltas: list[str], is_open: bool) -> None:
    assert is_cut_anywhere(AddressedReader, deltas, is_open=is_open)
