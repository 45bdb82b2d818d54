"""Stored answers in every form, and what is found where two of them differ."""

import copy
import json
from typing import Any

import pytest

from server.commands.replay.answers import Answer, NotReplayable, read_answer
from server.commands.replay.comparing import Difference, DifferingPart, differing_parts, find_differences
from server.commands.replay.report import ReplayResult, result_text

pytestmark = pytest.mark.fast

_TOP = [{"token": " day", "logprob": -0.5, "bytes": [1]}, {"token": " night", "logprob": -1.5, "bytes": [2]}]


def _chat() -> dict[str, Any]:
    tokens = [
        {"token": "A", "logprob": -0.25, "bytes": [65], "top_logprobs": []},
        {"token": " day", "logprob": -0.5, "bytes": [1], "top_logprobs": _TOP},
    ]
    call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": "A day", "refusal": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "logprobs": {"content": tokens}, "finish_reason": "tool_calls"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2},
        "system_fingerprint": "deterministic/1.0/aaaa/avx2-bb/bfloat16",
    }


def _text(text: str, **choice: Any) -> dict[str, Any]:
    whole = {"index": 0, "text": text, "logprobs": None, "finish_reason": "length", "stop_reason": None, **choice}
    return {"object": "text_completion", "choices": [whole]}


def _response() -> dict[str, Any]:
    part = {"type": "output_text", "text": "A day", "annotations": [], "logprobs": []}
    output = [
        {"type": "reasoning", "id": "rs_1", "status": "completed", "content": [{"type": "t", "text": "hm"}]},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"},
    ]
    return {"object": "response", "id": "resp_1", "status": "completed", "output": output}


def _read(body: object) -> Answer:
    return read_answer(json.dumps(body).encode(), "it")


def _found(stored: object, computed: object) -> list[Difference]:
    """With a tokenizer of one token a character."""
    return list(
        find_differences(
            _read(stored),
            _read(computed),
            lambda text: [ord(each) for each in text],
            lambda ids: "".join(map(chr, ids)),
        )
    )


@pytest.mark.parametrize("body", [_chat(), _text("A day"), _response()])
def test_ids_and_times_are_no_difference(body: dict[str, Any]) -> None:
    other = json.loads(
        json.dumps(body).replace("call_1", "x").replace("msg_1", "y").replace("c1", "z").replace("resp_1", "w")
    )
    assert _found(body, {**other, "id": "other", "created": 7, "created_at": 7}) == []


def test_the_first_differing_token_is_found_by_log_probabilities() -> None:
    other = _chat()
    other["choices"][0]["logprobs"]["content"][1]["token"] = " night"
    (found,) = _found(_chat(), other)
    assert (found.part, found.what, found.position) == ("choice 0", "token", 1)
    assert (found.before, found.stored, found.computed, found.is_guess) == ("A", " day", " night", False)


@pytest.mark.parametrize("where", ["logprob", "top_logprobs"])
def test_the_last_bit_of_a_log_probability_counts(where: str) -> None:
    other = _chat()
    token = other["choices"][0]["logprobs"]["content"][1]
    value = -0.5000000000000001
    token[where] = value if where == "logprob" else [{**_TOP[0], "logprob": value}, _TOP[1]]
    (found,) = _found(_chat(), other)
    assert (found.what, found.position, found.before) == ("log probability of ' day'", 1, "A")
    assert found.stored != found.computed


def test_a_log_probability_that_differs_before_the_token_is_reported_too() -> None:
    other = _chat()
    tokens = other["choices"][0]["logprobs"]["content"]
    tokens[0]["logprob"], tokens[1]["token"] = -0.26, " night"
    assert [(each.what, each.position) for each in _found(_chat(), other)] == [
        ("token", 1),
        ("log probability of 'A'", 0),
    ]


def test_hidden_tokens_are_compared_by_their_number() -> None:
    other = _chat()
    other["usage"]["completion_tokens"] = 300
    (found,) = _found(_chat(), other)
    assert (found.part, found.what, found.stored, found.computed) == ("answer", "number of tokens", 2, 300)


def test_ids_are_compared_beside_equal_log_probabilities() -> None:
    bodies = [_chat(), _chat()]
    for body, last in zip(bodies, (98, 99), strict=True):
        body["choices"][0]["token_ids"] = [97, last]
    (found,) = _found(*bodies)
    assert (found.what, found.position) == ("token", 1)


def test_an_answer_that_ends_earlier_differs_at_its_end() -> None:
    other = _chat()
    other["choices"][0]["logprobs"]["content"].pop()
    (found,) = _found(_chat(), other)
    assert (found.what, found.position, found.stored, found.computed) == ("token", 1, " day", None)


@pytest.mark.parametrize(
    ("stored", "computed", "is_guess"),
    [
        (_text("abc", token_ids=[97, 98, 99]), _text("abd", token_ids=[97, 98, 100]), False),
        (_text("abc"), _text("abd"), True),
    ],
)
def test_without_log_probabilities_tokens_come_from_ids_or_the_text(
    stored: dict[str, Any], computed: dict[str, Any], is_guess: bool
) -> None:
    (found,) = _found(stored, computed)
    assert (found.what, found.position, found.before) == ("token", 2, "ab")
    assert (found.stored, found.computed, found.is_guess) == ("c", "d", is_guess)


def test_arguments_of_tool_calls_ends_and_prompts_are_compared() -> None:
    other = copy.deepcopy(_chat())
    other["usage"]["prompt_tokens"] = 10
    other["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = '{"a": 2}'
    assert [(each.part, each.what) for each in _found(_chat(), other)] == [
        ("prompt", "number of tokens"),
        ("choice 0", "arguments of call 0"),
    ]
    assert [each.what for each in _found(_text("a"), _text("a", finish_reason="stop"))] == ["finish_reason"]
    scored = _text("a", logprobs={"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [None]})
    assert [each.what for each in _found(_text("a"), scored)] == ["log probabilities"]


def test_items_of_responses_are_compared_one_by_one() -> None:
    other = _response()
    other["output"][1]["content"][0]["text"] = "A night"
    other["output"].pop()
    found = _found(_response(), other)
    assert [(each.part, each.what) for each in found] == [
        ("item 1 (message), text", "token"),
        ("item 2 (function_call)", "part"),
    ]
    assert found[0].before == "A "


def _stream(body: dict[str, Any], *deltas: dict[str, Any], begins: bool = True) -> bytes:
    beginning = [{"type": "response.created", "response": {}}] if begins else []
    events = [*beginning, *deltas, {"type": f"response.{body['status']}", "response": body}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


_DELTAS = [
    {"type": "response.reasoning_text.delta", "output_index": 0, "delta": "hm"},
    {"type": "response.output_text.delta", "output_index": 1, "delta": "A "},
    {"type": "response.output_text.delta", "output_index": 1, "delta": "day"},
    {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{}"},
]


def test_a_responses_stream_is_its_last_event_also_if_it_continues_after_another() -> None:
    assert read_answer(_stream(_response(), *_DELTAS), "it") == _read(_response())
    assert read_answer(_stream(_response(), *_DELTAS[2:], begins=False), "it") == _read(_response())


@pytest.mark.parametrize(
    ("place", "delta", "found"),
    [
        (0, "ah", "in item 0, its deltas have 'ah' where its last event has 'hm'"),
        (2, "night", "in item 1, its deltas have 'night' where its last event has 'day'"),
        (2, "", "in item 1, its deltas have '' where its last event has 'day'"),
        (3, "{} ", "in item 2, its deltas have ' ' where its last event has ''"),
    ],
)
def test_a_responses_stream_that_contradicts_itself_is_refused(place: int, delta: str, found: str) -> None:
    deltas = copy.deepcopy(_DELTAS)
    deltas[place]["delta"] = delta
    with pytest.raises(NotReplayable) as refused:
        read_answer(_stream(_response(), *deltas), "answer")
    assert str(refused.value) == f"answer contradicts itself: {found}; give the stream as the server sent it"


def test_a_text_before_a_difference_is_cut_with_an_ellipsis() -> None:
    for length, before in ((60, "a" * 60), (61, "..." + "a" * 60)):
        (found,) = _found(_text("a" * length + "b"), _text("a" * length + "c"))
        assert found.before == before


@pytest.mark.parametrize("own", [{}, {"token_ids": [7]}, {"logprobs": {"tokens": ["x"]}}])
def test_an_altered_text_of_an_answer_with_tokens_gets_no_hint_to_ask_for_them(own: dict[str, Any]) -> None:
    result = ReplayResult(
        is_same=False,
        num_tokens=None,
        has_logprobs=False,
        differences=_found(_text("x", **own), _text("y", **own)),
        stored_fingerprint=None,
        computed_fingerprint=None,
        differing_parts=[],
    )
    shown = result_text(result)
    assert "counted in tokens of the texts" in shown
    assert ("answers with logprobs" in shown) is (not own)


def test_a_choice_too_many_is_a_difference() -> None:
    other = _text("a")
    other["choices"].append({**other["choices"][0], "index": 1})
    assert [(each.part, each.what, each.stored) for each in _found(_text("a"), other)] == [("choice 1", "part", None)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nonsense", "neither JSON nor a stream"),
        (b"[]", "is not a JSON object"),
        (b'{"error": {"message": "no room"}}', "is an error, not an answer: no room"),
        (b'{"object": "list"}', "has the object 'list'; those that can be replayed are chat.completion"),
        (b'{"object": "text_completion"}', "is not a complete answer"),
        (b'{"object": "response", "status": "in_progress"}', "give a response that has ended"),
        (b'data: {"error": {"message": "no room"}}\n', "is an error"),
        (b"data: [DONE]\n", "has no events"),
        (b'data: {"object": "text_completion", "choices": [{"index": 0, "text": "a"}]}\n', "ends in the middle"),
        (b'event: x\ndata: {"type": "response.created"}\n', "ends in the middle"),
    ],
)
def test_what_is_not_an_answer_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(NotReplayable) as refused:
        read_answer(data, "answer.json")
    assert message in str(refused.value)
    assert str(refused.value).startswith("answer.json ")


def test_fingerprints_differ_by_parts() -> None:
    old, new = "default/1.0/aaaa/avx2-bb/bfloat16", "default/1.0/aaab/avx2-bb/int8"
    assert differing_parts(old, old) == []
    assert differing_parts(old, new) == [
        DifferingPart("weights", "aaaa", "aaab"),
        DifferingPart("KV dtype", "bfloat16", "int8"),
    ]
    assert differing_parts("fp_1", new) == [DifferingPart("system_fingerprint", "fp_1", new)]
