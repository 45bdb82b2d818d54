"""How a text ends: stop strings across tokens, stop tokens, EOS and length."""

import random
from typing import Any

import pytest

from engine.protocol import AbortReason, FinishReason
from tests.helpers.fake_client import IM_END, FakeClient, http, make_app, says, says_ids
from tests.helpers.sse import events

pytestmark = pytest.mark.fast

TEXT = "one two three — fünf\n\nsix seven"


async def _complete(client: FakeClient, **body: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one choice of a whole and of a streamed answer; the latter put together from its chunks."""
    async with http(make_app(client)) as api:
        whole = (await api.post("/v1/completions", json={"prompt": "a", "max_tokens": 100, **body})).json()
        response = await api.post("/v1/completions", json={"prompt": "a", "max_tokens": 100, "stream": True, **body})
    *chunks, _ = events(response.text)
    choices = [chunk["choices"][0] for chunk in chunks]
    streamed = {"text": "".join(c["text"] for c in choices)}
    (finish,) = [c for c in choices if c["finish_reason"]]
    streamed |= {"finish_reason": finish["finish_reason"], "stop_reason": finish["stop_reason"]}
    choice = whole["choices"][0]
    return {key: choice[key] for key in streamed} | {"usage": whole["usage"]}, streamed


@pytest.mark.parametrize("per_step", [1, 3, 7, 100])
@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_string_ends_the_text_however_it_is_cut(per_step: int, include: bool) -> None:
    client = FakeClient(says(TEXT, per_step=per_step))
    whole, streamed = await _complete(client, stop=["nothing", "three —"], include_stop_str_in_output=include)
    assert whole["text"] == streamed["text"] == "one two " + ("three —" if include else "")
    assert (whole["finish_reason"], whole["stop_reason"]) == ("stop", "three —")
    assert (streamed["finish_reason"], streamed["stop_reason"]) == ("stop", "three —")
    assert whole["usage"]["completion_tokens"] == len("one two three —".encode())
    assert client.num_open == 0


async def test_the_engine_is_told_that_a_stop_string_ended_it() -> None:
    client = FakeClient(says(TEXT))
    await _complete(client, stop="two")
    assert {stream.abort_reason for stream in client.streams} == {AbortReason.STOP_STRING}


async def test_random_stop_strings_never_leak() -> None:
    rng = random.Random(7)
    for _ in range(50):
        start = rng.randrange(len(TEXT) - 1)
        stop = TEXT[start : start + rng.randint(1, 8)]
        whole, streamed = await _complete(FakeClient(says(TEXT, per_step=rng.randint(1, 5))), stop=stop)
        assert whole["text"] == streamed["text"] == TEXT[: TEXT.index(stop)]


async def test_text_held_back_for_a_stop_string_is_released_at_the_end() -> None:
    whole, streamed = await _complete(FakeClient(says("one tw")), stop="two")
    assert whole["text"] == streamed["text"] == "one tw"
    assert (whole["finish_reason"], whole["stop_reason"]) == ("length", None)


async def test_eos_gives_no_stop_reason_and_no_text() -> None:
    whole, streamed = await _complete(FakeClient(says("hi", finish=FinishReason.STOP)), skip_special_tokens=False)
    assert whole["text"] == streamed["text"] == "hi"
    assert (whole["finish_reason"], whole["stop_reason"]) == ("stop", None)
    assert whole["usage"]["completion_tokens"] == 3


async def test_a_clients_stop_token_is_named_and_left_out() -> None:
    client = FakeClient(says_ids([104, 105, 33], finish=FinishReason.STOP))
    whole, streamed = await _complete(client, stop_token_ids=[33])
    assert whole["text"] == streamed["text"] == "hi"
    assert whole["stop_reason"] == streamed["stop_reason"] == 33
    assert client.requests[0].sampling.stop_token_ids == (33,)


async def test_a_stop_token_can_be_kept() -> None:
    client = FakeClient(says_ids([104, 105, 33], finish=FinishReason.STOP))
    whole, streamed = await _complete(client, stop_token_ids=[33], include_stop_str_in_output=True)
    assert whole["text"] == streamed["text"] == "hi!"


@pytest.mark.parametrize(("skip", "text"), [(None, "ab"), (True, "ab"), (False, "a<|im_end|>b")])
async def test_special_tokens_show_only_where_asked_for(skip: bool | None, text: str) -> None:
    client = FakeClient(says_ids([97, IM_END, 98]))
    whole, streamed = await _complete(client, skip_special_tokens=skip, ignore_eos=True)
    assert whole["text"] == streamed["text"] == text


async def test_stop_strings_count_from_min_tokens_on() -> None:
    whole, streamed = await _complete(FakeClient(says("stop and stop")), stop="stop", min_tokens=5)
    assert whole["text"] == streamed["text"] == "stop and "


async def test_a_stop_string_with_the_last_token_wins_over_length() -> None:
    whole, _ = await _complete(FakeClient(says("one two")), stop="two")
    assert (whole["text"], whole["finish_reason"], whole["stop_reason"]) == ("one ", "stop", "two")
