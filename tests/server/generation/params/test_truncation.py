"""truncate_prompt_tokens: which tokens stay, of texts, ids and chats."""

from typing import Any

import msgspec
import pytest

from tests.helpers.fake_client import BOS, MAX_MODEL_LEN, FakeClient, engine_info, http, make_app, says

pytestmark = pytest.mark.fast

CHAT_URL, TEXT_URL = "/v1/chat/completions", "/v1/completions"
LETTERS = "abcdefgh"
CHAT = {"messages": [{"role": "user", "content": LETTERS}]}


async def _post(client: FakeClient, path: str, body: dict[str, Any]) -> Any:
    async with http(make_app(client)) as api:
        return await api.post(path, json=body)


async def _prompt(body: dict[str, Any], path: str = TEXT_URL, *, add_bos: bool = True) -> list[int]:
    info = engine_info()
    tokenizer = msgspec.structs.replace(info.tokenizer, add_bos_token=add_bos)
    client = FakeClient(says("x"), msgspec.structs.replace(info, tokenizer=tokenizer))
    response = await _post(client, path, body)
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["prompt_tokens"] == len(client.requests[0].prompt_ids)
    return client.requests[0].prompt_ids


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 3}, "fgh"),
        ({"truncate_prompt_tokens": 3, "truncation_side": "left"}, "fgh"),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, "abc"),
        ({"truncate_prompt_tokens": 8}, LETTERS),
        ({"truncate_prompt_tokens": 1000}, LETTERS),
        ({"truncate_prompt_tokens": -1}, LETTERS),
        ({"truncate_prompt_tokens": None, "truncation_side": None}, LETTERS),
    ],
)
async def test_one_end_stays(fields: dict[str, Any], kept: str) -> None:
    assert await _prompt({"prompt": LETTERS, **fields}, add_bos=False) == list(kept.encode())
    assert await _prompt({"prompt": list(LETTERS.encode()), **fields}, add_bos=False) == list(kept.encode())


@pytest.mark.parametrize(("limit", "kept"), [(1, ""), (2, "h"), (3, "gh")])
async def test_a_bos_stays_first_and_counts(limit: int, kept: str) -> None:
    assert await _prompt({"prompt": LETTERS, "truncate_prompt_tokens": limit}) == [BOS, *kept.encode()]


async def test_a_bos_that_the_tokenizer_does_not_add_is_a_token_like_others() -> None:
    body = {"prompt": [BOS, *LETTERS.encode()], "truncate_prompt_tokens": 2}
    assert await _prompt(body, add_bos=False) == list(b"gh")


@pytest.mark.parametrize(("max_tokens", "room"), [(None, 16), (50, 50), (0, 0)])
async def test_minus_one_leaves_room_for_the_answer(max_tokens: int | None, room: int) -> None:
    body = {"prompt": "x" * 500, "truncate_prompt_tokens": -1, "max_tokens": max_tokens, "echo": True}
    assert len(await _prompt(body)) == MAX_MODEL_LEN - room


@pytest.mark.parametrize(("max_tokens", "room"), [(None, 1), (50, 50)])
async def test_minus_one_leaves_room_for_a_chats_answer(max_tokens: int | None, room: int) -> None:
    messages = [{"role": "user", "content": "x" * 500}]
    body = {"messages": messages, "truncate_prompt_tokens": -1, "max_completion_tokens": max_tokens}
    assert len(await _prompt(body, CHAT_URL)) == MAX_MODEL_LEN - room


async def test_a_chat_keeps_the_opening_of_the_answer() -> None:
    whole = await _prompt(CHAT, CHAT_URL)
    assert await _prompt({**CHAT, "truncate_prompt_tokens": 14}, CHAT_URL) == whole[-14:]


async def test_echo_repeats_what_stays() -> None:
    body = {"prompt": LETTERS, "truncate_prompt_tokens": 4, "echo": True, "logprobs": 0}
    response = await _post(FakeClient(says("x")), TEXT_URL, body)
    choice = response.json()["choices"][0]
    assert choice["text"] == "fghx"
    assert choice["logprobs"]["tokens"] == ["<|bos|>", "f", "g", "h", "x"]


async def test_each_prompt_is_cut_by_itself() -> None:
    client = FakeClient(says("x"))
    await _post(client, TEXT_URL, {"prompt": ["ab", LETTERS], "truncate_prompt_tokens": 3})
    assert [request.prompt_ids for request in client.requests] == [[BOS, 97, 98], [BOS, 103, 104]]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (TEXT_URL, {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        (TEXT_URL, {"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        (TEXT_URL, {"truncation_side": "left"}, "truncation_side"),
        (TEXT_URL, {"truncate_prompt_tokens": 5, "truncation_side": "middle"}, "truncation_side"),
        (CHAT_URL, {"truncate_prompt_tokens": 5, "truncation_side": "right"}, "truncation_side"),
        (TEXT_URL, {"truncate_prompt_tokens": 250, "prompt": "x" * 500}, "prompt"),
        ("/tokenize", {"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
    ],
)
async def test_what_cannot_be_done_is_refused(path: str, fields: dict[str, Any], param: str) -> None:
    response = await _post(FakeClient(says("x")), path, {**(CHAT if path == CHAT_URL else {"prompt": "ab"}), **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
