"""Prompts far beyond the context: refused before they are tokenized, in every protocol's form, and cut where asked."""

from typing import Any

import pytest

from server.text import tokenizer as tokenizer_module
from tests.helpers.fake_client import BOS, FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

LONG = "a river ran " * 10_000
TURNS = [{"role": "user", "content": LONG}]
AT_LEAST = "at least 3000"  # and some digit: of three words in each phrase


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all texts that are tokenized."""
    sizes: list[int] = []
    encode = tokenizer_module._ids

    def spied(tokenizer: Any, text: str, add_special_tokens: bool) -> list[int]:
        sizes.append(len(text))
        return encode(tokenizer, text, add_special_tokens)

    monkeypatch.setattr(tokenizer_module, "_ids", spied)
    return sizes


async def _post(path: str, body: dict[str, Any], client: FakeClient | None = None) -> Any:
    async with http(make_app(client or FakeClient(says("x")))) as api:
        return await api.post(path, json=body)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": LONG}, "prompt"),
        ("/v1/completions", {"prompt": ["a", LONG]}, "prompt"),
        ("/v1/chat/completions", {"messages": TURNS}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": f"<|im_end|>{LONG}"}]}, "messages"),
        ("/v1/responses", {"input": LONG}, "input"),
        ("/v1/responses", {"input": LONG, "truncation": "auto"}, "input"),
    ],
)
async def test_prompt_is_refused_before_it_is_tokenized(
    path: str, body: dict[str, Any], param: str, encoded: list[int]
) -> None:
    response = await _post(path, body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
    assert AT_LEAST in error["message"]
    assert max(encoded) < 100


async def test_anthropics_clients_still_find_the_numbers(encoded: list[int]) -> None:
    response = await _post("/v1/messages", {"messages": TURNS, "max_tokens": 5})
    message = response.json()["error"]["message"]
    assert message.startswith("prompt is too long: 3000")
    assert " tokens > 200 maximum; shorten it (it has at least 3000" in message
    assert max(encoded) < 100


async def test_ollamas_clients_are_told(encoded: list[int]) -> None:
    response = await _post("/api/chat", {"model": "org/tiny", "messages": TURNS})
    assert response.status_code == 400
    assert AT_LEAST in response.json()["error"]
    assert max(encoded) < 100


async def test_prediction_is_refused_before_it_is_tokenized(encoded: list[int]) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "prediction": {"type": "content", "content": LONG}}
    error = (await _post("/v1/chat/completions", body)).json()["error"]
    assert error["param"] == "prediction"
    assert "the prediction has at least 30,00" in error["message"]
    assert max(encoded) < 100


async def test_counting_has_no_limit() -> None:
    counted = (await _post("/tokenize", {"prompt": LONG, "add_special_tokens": False})).json()
    assert counted["count"] == len(LONG)
    assert counted["tokens"] == list(LONG.encode())
    messages = (await _post("/v1/messages/count_tokens", {"messages": TURNS})).json()
    chat = (await _post("/tokenize", {"messages": TURNS})).json()
    assert messages["input_tokens"] == chat["count"] > len(LONG)


@pytest.mark.parametrize(("side", "kept"), [("left", [BOS, *LONG[-9:].encode()]), ("right", [BOS, *LONG[:9].encode()])])
async def test_long_text_is_tokenized_only_at_the_end_that_stays(
    side: str, kept: list[int], encoded: list[int]
) -> None:
    client = FakeClient(says("x"))
    body = {"prompt": LONG, "truncate_prompt_tokens": 10, "truncation_side": side}
    assert (await _post("/v1/completions", body, client)).status_code == 200
    assert client.requests[0].prompt_ids == kept
    assert sum(encoded) < len(LONG)


@pytest.mark.parametrize("start", ["", "<|im_end|>"])
async def test_long_chat_is_cut_to_its_end(start: str) -> None:
    client = FakeClient(says("x"))
    body = {"messages": [{"role": "user", "content": start + LONG}], "truncate_prompt_tokens": 20}
    assert (await _post("/v1/chat/completions", body, client)).status_code == 200
    short = FakeClient(says("x"))
    await _post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a river ran "}]}, short)
    assert client.requests[0].prompt_ids == short.requests[0].prompt_ids[-20:]
