"""A generation as Anthropic's message: whole, and as events that fold into the same."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from engine.protocol import FinishReason
from server.generation.choice import ChoiceDelta, Finish
from server.generation.choice_reader import CallPiece, ChoicePiece, Content, Thought, join_pieces
from server.protocols.messages.answer import SIGNATURE, MessagesFormatter
from server.schemas.answers import CompletionTokensDetails, PromptTokensDetails, Usage
from tests.helpers.sse import named_events

pytestmark = pytest.mark.fast

STOP = Finish(FinishReason.STOP, None)


class _Generation:
    """What a formatter sees of a generation: these deltas, and usage that grows with them."""

    def __init__(self, deltas: list[ChoiceDelta]) -> None:
        self._deltas = deltas
        self._num_tokens = 0

    async def __aiter__(self) -> AsyncIterator[ChoiceDelta]:
        for delta in self._deltas:
            self._num_tokens += 1
            yield delta

    def usage(self) -> Usage:
        details = CompletionTokensDetails(
            accepted_prediction_tokens=0,
            rejected_prediction_tokens=0,
            drafted_tokens=0,
            accepted_draft_tokens=0,
            reasoning_tokens=1,
        )
        return Usage(9, self._num_tokens, 9 + self._num_tokens, PromptTokensDetails(4, 0), details)


def _formatter(**options: bool) -> MessagesFormatter:
    return MessagesFormatter("m", "req_1", **{"is_cut_to_context": False, "omits_thoughts": False, **options})


def _whole(deltas: list[ChoiceDelta], formatter: MessagesFormatter) -> dict[str, Any]:
    answer = asyncio.run(formatter.collect(_Generation(deltas)))  # type: ignore[arg-type]
    message: dict[str, Any] = json.loads(msgspec.json.encode(answer))
    return message


def _events(deltas: list[ChoiceDelta], formatter: MessagesFormatter) -> list[Any]:
    async def joined() -> bytes:
        return b"".join([event async for event in formatter.events(_Generation(deltas))])  # type: ignore[arg-type]

    return named_events(asyncio.run(joined()).decode())


def _folded(events: list[Any]) -> dict[str, Any]:
    """The message that a client makes of the events. Asserts their order."""
    start, *middle, delta, stop = events
    assert (start["type"], delta["type"], stop) == ("message_start", "message_delta", {"type": "message_stop"})
    message: dict[str, Any] = start["message"]
    assert message["content"] == []
    assert message["usage"]["output_tokens"] <= 1
    is_open, arguments = False, ""
    for event in middle:
        assert is_open == (event["type"] != "content_block_start")
        if event["type"] == "content_block_start":
            message["content"].append(event["content_block"])
            is_open, arguments = True, ""
        assert event["index"] == len(message["content"]) - 1
        block = message["content"][-1]
        if event["type"] == "content_block_stop":
            is_open = False
            if block["type"] == "tool_use":
                block["input"] = json.loads(arguments or "{}")
        if event["type"] == "content_block_delta":
            match event["delta"]:
                case {"type": "text_delta", "text": text}:
                    block["text"] += text
                case {"type": "thinking_delta", "thinking": text}:
                    block["thinking"] += text
                case {"type": "signature_delta", "signature": signature}:
                    block["signature"] = signature
                case {"type": "input_json_delta", "partial_json": text}:
                    arguments += text
                case other:
                    raise AssertionError(other)
    assert not is_open
    return {**message, **delta["delta"], "usage": delta["usage"]}


TEXTS = st.lists(st.sampled_from(["a", "b\n", "é", '"', " "]), max_size=2)
ARGUMENTS = st.sampled_from(["{}", '{"a": 1}', '{"b": "é\\n", "c": [true, {}]}'])
ENDS = (STOP, Finish(FinishReason.LENGTH, None), Finish(FinishReason.STOP, "END"))


@st.composite
def _answers(draw: st.DrawFn) -> list[ChoiceDelta]:
    """Deltas of an answer: thought, content and calls in the order that readers find them, cut anywhere."""
    pieces: list[ChoicePiece] = [Thought(text) for text in draw(TEXTS)]
    for index, arguments in enumerate(draw(st.lists(ARGUMENTS, max_size=3))):
        pieces += [Content(text) for text in draw(TEXTS)]
        cut = draw(st.integers(0, len(arguments)))
        pieces.append(CallPiece(index, "", f"tool{index}", f"call_{index}"))
        pieces += [CallPiece(index, part) for part in (arguments[:cut], arguments[cut:]) if part]
    pieces += [Content(text) for text in draw(TEXTS)]
    cuts = sorted(draw(st.lists(st.integers(0, len(pieces)), max_size=4)))
    bounds = zip([0, *cuts], [*cuts, len(pieces)], strict=True)
    deltas = [ChoiceDelta(0, pieces=join_pieces(pieces[start:end])) for start, end in bounds]
    return [*deltas, ChoiceDelta(0, finish=draw(st.sampled_from(ENDS)))]


@given(_answers(), st.booleans())
def test_the_events_fold_into_the_whole_answer(deltas: list[ChoiceDelta], omits_thoughts: bool) -> None:
    formatter = _formatter(omits_thoughts=omits_thoughts)
    assert _folded(_events(deltas, formatter)) == _whole(deltas, formatter)


def _block(*pieces: ChoicePiece, finish: Finish = STOP, **options: bool) -> dict[str, Any]:
    return _whole([ChoiceDelta(0, pieces=list(pieces)), ChoiceDelta(0, finish=finish)], _formatter(**options))


def test_blocks_come_in_order_with_ids_of_anthropics_form() -> None:
    message = _block(
        Thought("hmm"),
        Content("Let me see."),
        CallPiece(0, '{"a": 1}', "plus", "call_abc"),
        CallPiece(1, "", "now", "functions.now:1"),
    )
    assert message["content"] == [
        {"type": "thinking", "thinking": "hmm", "signature": SIGNATURE},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "toolu_abc", "name": "plus", "input": {"a": 1}},
        {"type": "tool_use", "id": "functions.now:1", "name": "now", "input": {}},  # as the model wrote it
    ]
    assert message["stop_reason"] == "tool_use"
    assert message["id"].startswith("msg_")


def test_usage_counts_cached_tokens_apart() -> None:
    assert _block(Content("x"))["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 2,
        "output_tokens_details": {"thinking_tokens": 1},
        "service_tier": "standard",
    }


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        (STOP, ("end_turn", None)),
        (Finish(FinishReason.STOP, "END"), ("stop_sequence", "END")),
        (Finish(FinishReason.LENGTH, None), ("max_tokens", None)),
    ],
)
def test_the_reason_of_the_end_has_anthropics_name(finish: Finish, expected: tuple[str, str | None]) -> None:
    message = _block(Content("x"), finish=finish)
    assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_an_end_at_the_contexts_is_told_from_one_at_max_tokens() -> None:
    message = _block(Content("x"), finish=Finish(FinishReason.LENGTH, None), is_cut_to_context=True)
    assert message["stop_reason"] == "model_context_window_exceeded"


def test_arguments_that_are_cut_off_keep_what_is_complete() -> None:
    finish = Finish(FinishReason.LENGTH, None, is_within_call=True)
    message = _block(CallPiece(0, '{"a": [1, 2], "b": "unfini', "plus", "call_1"), finish=finish)
    assert message["content"][0]["input"] == {"a": [1, 2]}
    assert message["stop_reason"] == "max_tokens"


def test_a_call_whose_arguments_are_no_object_has_an_empty_input() -> None:
    finish = Finish(FinishReason.STOP, None, is_within_call=True)
    for arguments in ("nonsense", "[1]", ""):
        message = _block(CallPiece(0, arguments, "plus", "call_1"), finish=finish)
        assert message["content"][0]["input"] == {}
        assert message["stop_reason"] == "end_turn"


def test_a_thought_can_be_left_out_of_its_block() -> None:
    message = _block(Thought("hmm"), Content("x"), omits_thoughts=True)
    assert message["content"][0] == {"type": "thinking", "thinking": "", "signature": SIGNATURE}
