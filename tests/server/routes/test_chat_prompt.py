"""How messages become the prompt."""

from typing import Any

import msgspec
import pytest

from tests.helpers.fake_client import BOS, IM_END, IM_START, FakeClient, engine_info, http, make_app, says

pytestmark = pytest.mark.fast


def _ids(text: str) -> list[int]:
    """The ids of a rendered prompt, in which < and > stand for the control tokens."""
    return [{60: IM_START, 62: IM_END}.get(byte, byte) for byte in text.encode()]


async def _prompt(client: FakeClient, **body: Any) -> list[int]:
    async with http(make_app(client)) as api:
        response = await api.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return client.requests[0].prompt_ids


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "user", "content": "hi"}], "<user\nhi>\n"),
        (
            [{"role": "system", "content": "s"}, {"role": "assistant", "content": None}],
            "<system\ns>\n<assistant\n>\n",
        ),
        ([{"role": "developer", "content": "d"}], "<system\nd>\n"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            "<user\na\nb>\n",
        ),
        ([{"role": "user", "content": []}], "<user\n>\n"),
        ([{"role": "user", "content": "hi", "name": "bob", "unknown": 1}], "<user\nhi>\n"),
        ([{"role": "user", "content": "é🙂"}], "<user\né🙂>\n"),
    ],
)
async def test_messages_become_the_templates_prompt(messages: list[Any], prompt: str) -> None:
    assert await _prompt(FakeClient(says("x")), messages=messages) == _ids(prompt + "<assistant\n")


async def test_parts_reach_a_template_that_reads_them() -> None:
    info = engine_info()
    source = "{% for part in messages[0].content %}({{ part.text }}){% endfor %}"
    info = msgspec.structs.replace(info, tokenizer=msgspec.structs.replace(info.tokenizer, chat_template=source))
    parts = [{"type": "text", "text": "a", "cache_control": {}}, {"type": "text", "text": "b"}]
    ids = await _prompt(FakeClient(says("x"), info), messages=[{"role": "user", "content": parts}])
    assert ids == _ids("(a)(b)")


async def test_a_users_control_token_is_plain_text() -> None:
    ids = await _prompt(FakeClient(says("x")), messages=[{"role": "user", "content": "<|im_end|>"}])
    assert ids.count(IM_END) == 1
    assert ids[6 : 6 + len("<|im_end|>")] == list(b"<|im_end|>")


async def test_the_opening_of_an_answer_can_be_left_out() -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert await _prompt(FakeClient(says("x")), messages=messages, add_generation_prompt=False) == _ids("<user\nhi>\n")


async def test_the_final_message_can_be_continued() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Sure,"}]
    ids = await _prompt(FakeClient(says("x")), messages=messages, continue_final_message=True)
    assert ids == _ids("<user\nhi>\n<assistant\nSure,")


async def test_a_model_that_writes_the_users_message_stops_where_it_ends() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": ""}]
    for source, end_id, stop in (
        ("{{ messages[1].content }}<|im_start|>", IM_START, None),  # a control token, but not the EOS
        ("{{ messages[1].content }} END", None, "END"),
    ):
        client = FakeClient(says("Why? END No."))
        async with http(make_app(client, chat_template="U:" + source)) as api:
            body = {"messages": messages, "continue_final_message": True, "max_tokens": 50}
            (choice,) = (await api.post("/v1/chat/completions", json=body)).json()["choices"]
        assert client.requests[0].prompt_ids == list(b"U:")
        assert client.requests[0].sampling.stop_token_ids == (() if end_id is None else (end_id,))
        assert choice["message"]["content"] == ("Why? END No." if stop is None else "Why? ")
        assert choice["message"].get("reasoning_content") is None


@pytest.mark.parametrize(
    ("template", "more", "message"),
    [
        ("U:{{ messages[0].content }}", {}, "the chat template writes nothing after it"),
        (
            "{% for m in messages %}U:{{ m.content }} E{% endfor %}",
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
            "tool_choice requires a call, and continue_final_message continues a message of the user",
        ),
    ],
)
async def test_a_users_message_that_cannot_be_continued_is_refused(
    template: str, more: dict[str, Any], message: str
) -> None:
    body = {"messages": [{"role": "user", "content": ""}], "continue_final_message": True, **more}
    async with http(make_app(FakeClient(says("x")), chat_template=template)) as api:
        response = await api.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


async def test_opening_and_continuing_at_once_is_refused() -> None:
    messages = [{"role": "user", "content": ""}]
    body = {"messages": messages, "continue_final_message": True, "add_generation_prompt": True}
    async with http(make_app(FakeClient(says("x")))) as api:
        response = await api.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "continue_final_message"


async def test_a_bos_is_put_in_front_only_where_asked_for() -> None:
    ids = await _prompt(FakeClient(says("x")), messages=[{"role": "user", "content": ""}], add_special_tokens=True)
    assert ids == [BOS, *_ids("<user\n>\n<assistant\n")]


async def test_chat_template_kwargs_reach_the_template() -> None:
    info = engine_info()
    info = msgspec.structs.replace(
        info, tokenizer=msgspec.structs.replace(info.tokenizer, chat_template="{{ mood }}:{{ messages[0].content }}")
    )
    body = {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"mood": "glad"}}
    assert await _prompt(FakeClient(says("x"), info), **body) == list(b"glad:hi")


async def test_a_template_of_the_operators_wins() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client, chat_template="{{ messages[0].content }}!")) as api:
        await api.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
    assert client.requests[0].prompt_ids == list(b"hi!")


async def test_a_model_without_template_refuses_chat_with_the_remedy() -> None:
    info = engine_info()
    info = msgspec.structs.replace(info, tokenizer=msgspec.structs.replace(info.tokenizer, chat_template=None))
    async with http(make_app(FakeClient(says("x"), info))) as api:
        response = await api.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
    assert response.status_code == 400
    assert "--chat-template" in response.json()["error"]["message"]
