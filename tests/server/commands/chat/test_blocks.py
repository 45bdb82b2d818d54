"""Markdown is cut into blocks that are complete, and nothing of it is lost or shown twice."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from server.commands.chat.blocks import BlockWriter, split_blocks

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "complete", "rest"),
    [
        ("a line", "", "a line"),
        ("one\n\n", "", "one\n\n"),  # the next line may continue a list
        ("one\n\ntwo", "one", "two"),
        ("one\n\ntwo\n\nthree", "one\n\ntwo", "three"),
        ("- a\n\n- b\n", "", "- a\n\n- b\n"),
        ("1. a\n\n2. b", "", "1. a\n\n2. b"),
        ("- a\n\n  more of a\n\nnext", "- a\n\n  more of a", "next"),
        ("```\ncode\n\nmore", "", "```\ncode\n\nmore"),
        ("```\ncode\n\nmore\n```\n\nafter", "```\ncode\n\nmore\n```", "after"),
        ("````\n```\n\n```\n````\n\nafter", "````\n```\n\n```\n````", "after"),
    ],
)
def test_blocks(text: str, complete: str, rest: str) -> None:
    assert split_blocks(text) == (complete, rest)


@given(st.lists(st.sampled_from(["word", " ", "\n", "\n\n", "```", "- ", "1. ", "~~~\n"]), max_size=30))
def test_nothing_is_lost_however_it_arrives(pieces: list[str]) -> None:
    shown, rest = "", ""
    for piece in pieces:
        complete, rest = split_blocks(rest + piece)
        shown += complete
    assert (shown + rest).replace("\n", "") == "".join(pieces).replace("\n", "")


def test_a_file_gets_the_text_as_it_is() -> None:
    file = io.StringIO()
    with BlockWriter(Console(file=file, force_terminal=False)) as writer:
        for piece in ("# T\n\n", "some *te", "xt*"):
            writer.write(piece)
    assert file.getvalue() == "# T\n\nsome *text*\n"


def test_a_terminal_gets_all_blocks() -> None:
    file = io.StringIO()
    with BlockWriter(Console(file=file, force_terminal=True, width=60, height=8)) as writer:
        for number in range(40):  # more than the terminal is high
            writer.write(f"paragraph {number}\n\n")
    assert all(f"paragraph {number}" in file.getvalue() for number in range(40))


def test_a_terminal_obeys_no_model() -> None:
    file = io.StringIO()
    with BlockWriter(Console(file=file, force_terminal=True, width=60, height=8)) as writer:
        for piece in ("a\x1b]0;ti", "tle\x07b\n\n", "\x9b2Jc\td"):
            writer.write(piece)
    assert "]0;title" in file.getvalue()  # without what makes a terminal obey it
    assert not set("\x07\x9b") & set(file.getvalue())
    assert "\x1b]" not in file.getvalue()
