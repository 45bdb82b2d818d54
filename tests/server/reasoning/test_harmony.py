"""HarmonyReader: channels as thought, answer and calls, however the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.reasoning.harmony import HarmonyReader
from tests.helpers.message_reading import is_cut_anywhere, read

pytestmark = pytest.mark.fast

ANALYSIS = "<|channel|>analysis<|message|>"
COMMENTARY = "<|channel|>commentary<|message|>"
FINAL = "<|channel|>final<|message|>"
CALL = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}'
NEXT = "<|end|><|start|>assistant"
TEXTS = [
    *("", "<|start|>", "assistant", "<|channel|>", "analysis", "final", "commentary", " to=functions.add"),
    *(" <|constrain|>json", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|en", "<|", "{}", "x", "\n", " "),
    *(ANALYSIS, FINAL, NEXT),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ANALYSIS}So.{NEXT}{FINAL}Yes.<|return|>", ("So.", "Yes.")),
        (f"{ANALYSIS}So.{NEXT}{FINAL}Yes.", ("So.", "Yes.")),
        (f"{FINAL}Yes. <thing> <|x", ("", "Yes. <thing> <|x")),
        (f"{ANALYSIS}So.{NEXT}{ANALYSIS}And so.{NEXT}{FINAL}Yes.", ("So.\nAnd so.", "Yes.")),
        (f"{ANALYSIS}So.{NEXT}{COMMENTARY}I look.{NEXT}{FINAL}Yes.", ("So.", "I look.\nYes.")),
        (f"{ANALYSIS}So.{NEXT}{CALL}<|call|>", ("So.", f"{CALL}<|call|>")),
        (f"{ANALYSIS}So.{NEXT}{CALL}", ("So.", CALL)),
        (f"{CALL}<|call|><|start|>assistant{CALL}<|call|>", ("", f"{CALL}<|call|>{CALL}<|call|>")),
        (f"{ANALYSIS}So.<|start|>assistant{FINAL}Yes.", ("So.", "Yes.")),
        (f"{ANALYSIS}So.{NEXT}<|channel|>fin", ("So.", "")),
        ("Plain text.", ("", "Plain text.")),
        ("<", ("", "<")),
    ],
)
def test_reader_tells_channels_apart(text: str, expected: tuple[str, str]) -> None:
    assert read(HarmonyReader(is_open=False), [text]) == expected
    assert read(HarmonyReader(is_open=False), list(text)) == expected


def test_call_has_one_form_wherever_its_recipient_stands() -> None:
    body = '<|message|>{"a": 1}<|call|>'
    expected = f"<|channel|>commentary to=functions.add <|constrain|>json{body}"
    for header in (
        " to=functions.add<|channel|>commentary <|constrain|>json",
        "<|start|>assistant to=functions.add<|channel|>commentary<|constrain|>json",
        "<|channel|>commentary to=functions.add<|constrain|>json",
        "<|channel|>commentary to=functions.add <|constrain|>json",
    ):
        assert read(HarmonyReader(is_open=False), [header + body]) == ("", expected)
    no_type = "<|channel|>analysis to=functions.add code"
    assert read(HarmonyReader(is_open=False), [no_type + body]) == ("", no_type + body)


def test_prompt_may_open_the_thought() -> None:
    assert read(HarmonyReader(is_open=True), ["So.", f"{NEXT}{FINAL}Yes."]) == ("So.", "Yes.")


def test_reader_says_whether_it_is_thinking() -> None:
    reader = HarmonyReader(is_open=False)
    states = []
    for delta in (ANALYSIS, "So.", NEXT, FINAL):
        reader.push(delta)
        states.append(reader.is_thinking)
    assert states == [True, True, False, False]


@given(st.lists(st.sampled_from(TEXTS), max_size=16), st.booleans())
def test_reader_holds_under_every_split(deltas: list[str], is_open: bool) -> None:
    assert is_cut_anywhere(HarmonyReader, deltas, is_open=is_open)
