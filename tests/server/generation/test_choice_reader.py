"""ChoiceReader: thought, content and calls of one choice, with ids, blanks and counts."""

import pytest

from server.generation.choice_reader import CallPiece, ChoicePiece, ChoiceReader, Content, Thought, join_pieces
from server.metrics.values import Metrics
from server.reasoning.marks import THINK
from server.reasoning.reader import reasoning_reader
from server.tools.formats.hermes import FORMAT

pytestmark = pytest.mark.fast

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def _read(text: str, *, size: int, has_tools: bool = True, is_open: bool = False) -> tuple[list[ChoicePiece], str]:
    """The pieces of a text that is pushed `size` characters at a time, ids made equal, and the metrics."""
    metrics = Metrics("m")
    reader = ChoiceReader(
        reasoning_reader(THINK, is_open=is_open),
        FORMAT.parser({"add": True}) if has_tools else None,
        metrics=metrics,
        format_name="hermes",
    )
    pieces: list[ChoicePiece] = []
    for start in range(0, len(text), size):
        pieces += reader.push(text[start : start + size], is_last=start + size >= len(text))
    ids = [piece.id for piece in pieces if isinstance(piece, CallPiece) and piece.id is not None]
    assert len(set(ids)) == len(ids)
    plain = [CallPiece(p.index, p.arguments, p.name) if isinstance(p, CallPiece) else p for p in pieces]
    return join_pieces(plain), metrics.scrape("")[0].decode()


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_thought_content_and_calls_come_apart(size: int) -> None:
    pieces, metrics = _read(f"<think>\nhm\n</think>\n\nLet me add. \n{CALL}\n{CALL}\n", size=size)
    assert pieces == [
        Thought("hm"),
        Content("Let me add."),
        CallPiece(0, "", "add"),
        CallPiece(0, '{"a": 1}'),
        CallPiece(1, "", "add"),
        CallPiece(1, '{"a": 1}'),
    ]
    assert 'tool_calls_total{model_name="m",outcome="complete",parser="hermes"} 2.0' in metrics


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("text", ["plain ", "two\n\nparagraphs \n", " <think", "no <tool_call> here\n", "\n"])
def test_a_text_without_calls_is_content_to_its_last_blank(text: str, size: int) -> None:
    pieces, _ = _read(text, size=size)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Content)) == text
    assert all(isinstance(piece, Content) for piece in pieces)


def test_a_call_that_is_cut_off_is_counted_as_incomplete() -> None:
    pieces, metrics = _read(CALL[: CALL.index(": 1}")], size=7)
    assert pieces == [CallPiece(0, "", "add"), CallPiece(0, '{"a"')]
    assert 'tool_calls_total{model_name="m",outcome="incomplete",parser="hermes"} 1.0' in metrics


def test_arguments_of_thousands_of_brackets_are_read() -> None:
    arguments = f'{{"a": {"[" * 5000}{"]" * 5000}}}'
    pieces, metrics = _read(CALL.replace('{"a": 1}', arguments), size=1000)
    assert pieces[1] == CallPiece(0, arguments)
    assert 'outcome="complete",parser="hermes"} 1.0' in metrics


def test_without_tools_a_call_is_content() -> None:
    assert _read(CALL, size=5, has_tools=False)[0] == [Content(CALL)]


def test_a_thought_that_the_prompt_opens_needs_no_mark() -> None:
    assert _read("hm</think>yes", size=2, is_open=True)[0] == [Thought("hm"), Content("yes")]
