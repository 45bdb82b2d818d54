"""ThoughtReader: what is thought and what is answer, however the text is cut."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.reasoning.harmony import HarmonyReader
from server.reasoning.marks import HARMONY, THINK, ReasoningMarks, marks_of_parser
from server.reasoning.reader import ReasoningReader, ThoughtReader, reasoning_reader

pytestmark = pytest.mark.fast

MARKS = [THINK, ReasoningMarks("[[", "]]"), ReasoningMarks("aab", "aaab"), ReasoningMarks("so I think:", "so I say:")]


def read(reader: ReasoningReader, *deltas: str) -> tuple[str, str]:
    """The reasoning and the content of all deltas."""
    pieces = [reader.push(delta) for delta in deltas] + [reader.finish()]
    return "".join(piece for piece, _ in pieces), "".join(piece for _, piece in pieces)


def read_whole(text: str, marks: ReasoningMarks, is_open: bool) -> tuple[str, str]:
    """Return the reasoning and content that a ThoughtReader must find in a whole text."""
    thoughts, content = [], ""
    is_thinking, is_fenced = is_open, False
    if start := re.match(r"\s*" + re.escape(marks.start), text):
        is_thinking, text = True, text[start.end() :]
    while text:
        if is_thinking:
            thought, end, text = text.partition(marks.end)
            thoughts.append(thought.strip() if end else thought.lstrip())
            is_thinking, text = not end, text.lstrip()
            continue
        line_starts = re.compile(rf"^[ \t]*(?:(```)|({re.escape(marks.start)}))", re.MULTILINE)
        for match in line_starts.finditer(text):
            if match[2] and not is_fenced:
                content += text[: match.start(2)]
                is_thinking, text = True, text[match.end() :]
                break
            is_fenced ^= bool(match[1])
        else:
            return "\n".join(filter(None, thoughts)), content + text
    return "\n".join(filter(None, thoughts)), content


@pytest.mark.parametrize(
    ("is_open", "text", "expected"),
    [
        (False, "<think>\nSo.\n</think>\n\nYes.", ("So.", "Yes.")),
        (False, "<think>\n\n</think>\n\nYes.", ("", "Yes.")),
        (False, "\n<think>So.</think>Yes. ", ("So.", "Yes. ")),
        (False, " Yes.\n", ("", " Yes.\n")),
        (False, "So.</think>Yes.", ("", "So.</think>Yes.")),
        (False, "It is <think>So.</think>.", ("", "It is <think>So.</think>.")),
        (False, "<think>So.</think>Say <think> and </think>", ("So.", "Say <think> and </think>")),
        (False, "<think>So.\n</thi", ("So.\n</thi", "")),
        (False, "<think>So.</think>Yes.\n\n<think>\nHm.\n</think>\n\nNo.", ("So.\nHm.", "Yes.\n\nNo.")),
        (False, "<think>So.</think>\n<think></think><think>Hm.</think>Yes.", ("So.\nHm.", "Yes.")),
        (False, "Wait.\n <think>Hm.</think>Yes.", ("Hm.", "Wait.\n Yes.")),
        (False, "Write:\n```\n<think>Hm.</think>\n```\n<think>So.", ("So.", "Write:\n```\n<think>Hm.</think>\n```\n")),
        (False, "Yes.\n<thi", ("", "Yes.\n<thi")),
        (True, "So.</think>Yes.\n<think>Hm.", ("So.\nHm.", "Yes.\n")),
        (False, "<thi", ("", "<thi")),
        (True, "\nSo.\n</think>\n\nYes.", ("So.", "Yes.")),
        (True, "<think>\nSo.\n</think>Yes.", ("So.", "Yes.")),
        (True, "So.\n\nSo. ", ("So.\n\nSo. ", "")),
        (True, "</think>Yes.", ("", "Yes.")),
        (True, "", ("", "")),
    ],
)
def test_reader_tells_thought_from_answer(is_open: bool, text: str, expected: tuple[str, str]) -> None:
    assert read(ThoughtReader(THINK, is_open=is_open), text) == expected
    assert read(ThoughtReader(THINK, is_open=is_open), *text) == expected


@given(st.data(), st.sampled_from(MARKS), st.booleans())
def test_reader_holds_under_every_split(data: st.DataObject, marks: ReasoningMarks, is_open: bool) -> None:
    mark = st.sampled_from([marks.start, marks.end])
    cut = st.builds(lambda mark, size: mark[:size], mark, st.integers(0, 10))
    deltas = data.draw(st.lists(mark | cut | st.text("ab so\n<[]/`", max_size=4) | st.just("```"), max_size=12))
    reader = ThoughtReader(marks, is_open=is_open)
    pieces = []
    for delta in deltas:
        pieces.append(reader.push(delta))
        reader.check()
    pieces.append(reader.finish())
    joined = "".join(piece for piece, _ in pieces), "".join(piece for _, piece in pieces)
    assert joined == read_whole("".join(deltas), marks, is_open)


def test_reader_takes_one_thought_where_a_grammar_follows_it() -> None:
    reader = ThoughtReader(THINK, is_open=False, has_one=True)
    assert read(reader, "<think>So.</think>Yes.\n<think>Hm.</think>") == ("So.", "Yes.\n<think>Hm.</think>")


def test_reader_sends_what_cannot_be_part_of_a_mark() -> None:
    reader = ThoughtReader(THINK, is_open=False)
    assert reader.push("<think>So. </th") == ("So.", "")
    assert reader.push("e end. </think") == (" </the end.", "")
    assert reader.push(">\n") == ("", "")
    assert reader.push("Yes. <") == ("", "Yes. <")


def test_reader_says_whether_it_is_thinking() -> None:
    reader = ThoughtReader(THINK, is_open=False)
    states = [reader.is_thinking]
    for delta in ("<think>", "So.", "</think>", "Yes."):
        reader.push(delta)
        states.append(reader.is_thinking)
    assert states == [False, True, True, False, False]
    assert ThoughtReader(THINK, is_open=True).is_thinking


def test_marks_of_harmony_get_its_own_reader() -> None:
    assert isinstance(reasoning_reader(HARMONY, is_open=False), HarmonyReader)
    assert isinstance(reasoning_reader(THINK, is_open=False), ThoughtReader)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "kimi_k3",
            "Hm.<|close|>think<|sep|><|open|>response<|sep|>Four.<|close|>response<|sep|><|close|>message<|sep|>",
            "Four.",
        ),
        ("kimi_k3", "Hm.<|close|>think<|sep|><|open|>response<|sep|>Four.", "Four."),
        (
            "kimi_k3",
            "Hm.<|close|>think<|sep|><|open|>response<|sep|>See.<|close|>response<|sep|><|open|>tools<|sep|>",
            "See.<|close|>response<|sep|><|open|>tools<|sep|>",
        ),
        ("hunyuan_a13b", "Hm.\n</think>\n<answer>\nFour < 5. \n</answer>", "Four < 5."),
        ("hunyuan_a13b", "Hm.\n</think>\n<answer>\nFour. \n</ans", "Four. \n</ans"),
        ("hunyuan_a13b", "Hm.\n</think>\n<answer>\nA </answer> b </answer> c", "A </answer> b </answer> c"),
        ("hunyuan_a13b", "Hm.\n</think>\n<answer>\nFour.\n</answer>\n</answer> \n", "Four."),
    ],
)
def test_marks_at_the_end_of_the_answer_are_dropped(name: str, text: str, expected: str) -> None:
    marks = marks_of_parser(name)

    whole = read(reasoning_reader(marks, is_open=True), text)

    assert whole == ("Hm.", expected)
    assert read(reasoning_reader(marks, is_open=True), *text) == whole
