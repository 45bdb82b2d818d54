"""Several choices: n, lists of prompts, and their seeds, indices and admission."""

from typing import Any

import pytest

from engine.protocol import EngineRequest, FinishReason
from tests.helpers.fake_client import BOS, FakeClient, Step, engine_info, http, make_app, says
from tests.helpers.sse import contents, events

pytestmark = pytest.mark.fast

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def _by_seed(request: EngineRequest) -> list[Step]:
    """Says the seed, the longer the larger it is, so that choices end at different times."""
    seed = request.sampling.seed or 0
    return says(f"seed {seed}" + "!" * seed, finish=FinishReason.STOP)(request)


async def test_each_choice_has_its_own_seed_and_id_and_shares_the_prompt() -> None:
    client = FakeClient(_by_seed)
    async with http(make_app(client)) as api:
        answer = (await api.post("/v1/chat/completions", json={**CHAT, "n": 3, "seed": 5})).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [c["message"]["content"] for c in answer["choices"]] == ["seed 5!!!!!", "seed 6!!!!!!", "seed 7!!!!!!!"]
    assert len({request.id for request in client.requests}) == 3
    assert len({tuple(request.prompt_ids) for request in client.requests}) == 1


async def test_usage_counts_a_prompt_once_and_every_choice() -> None:
    async with http(make_app(FakeClient(says("abcd")))) as api:
        answer = (await api.post("/v1/completions", json={"prompt": ["ab", "c"], "n": 3})).json()
    assert answer["usage"] == {
        "prompt_tokens": 3 + 2,
        "completion_tokens": 6 * 4,
        "total_tokens": 5 + 24,
        "prompt_tokens_details": {"cached_tokens": 2 + 2, "cache_write_tokens": 0},
    }


async def test_a_stream_of_choices_has_a_role_and_one_finish_for_each() -> None:
    async with http(make_app(FakeClient(_by_seed))) as api:
        response = await api.post("/v1/chat/completions", json={**CHAT, "n": 3, "seed": 1, "stream": True})
    *chunks, end = events(response.text)
    assert end == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [c["index"] for c in choices if "role" in c["delta"]] == [0, 1, 2]
    assert [(c["index"], c["finish_reason"]) for c in choices if c["finish_reason"]] == [
        (0, "stop"),
        (1, "stop"),
        (2, "stop"),
    ]
    assert [contents(chunks, index) for index in range(3)] == ["seed 1!", "seed 2!!", "seed 3!!!"]
    texts = [c["index"] for c in choices if c["delta"].get("content")]
    assert texts != sorted(texts)  # they interleave


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [[BOS, 97, 98]]),
        (["ab", "c"], [[BOS, 97, 98], [BOS, 99]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
    ],
)
async def test_a_prompt_may_be_text_or_ids_one_or_many(prompt: Any, ids: list[list[int]]) -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        answer = (await api.post("/v1/completions", json={"prompt": prompt})).json()
    assert [request.prompt_ids for request in client.requests] == ids
    assert [choice["text"] for choice in answer["choices"]] == ["x"] * len(ids)


async def test_choices_are_admitted_all_or_none() -> None:
    client = FakeClient(says("x"))
    client.capacity = 3
    async with http(make_app(client)) as api:
        refused = await api.post("/v1/completions", json={"prompt": ["a", "b"], "n": 2})
        assert refused.status_code == 429
        assert client.requests == []
        taken = await api.post("/v1/completions", json={"prompt": "a", "n": 3})
    assert taken.status_code == 200


@pytest.mark.parametrize(
    ("prompt", "n", "param", "part"),
    [
        ("a", 12, "n", "n is 12; one request may have 11 choices"),
        (["a"] * 12, 1, "prompt", "prompt has 12 prompts; one request may have 11 choices"),
        (["a"] * 6, 2, "prompt", "prompt has 6 prompts with 2 choices each (n), 12 choices in all; one request may"),
    ],
)
async def test_more_choices_than_can_ever_run_and_wait_are_refused_for_good(
    prompt: str | list[str], n: int, param: str, part: str
) -> None:
    client = FakeClient(says("x"), engine_info(max_num_seqs=8))
    async with http(make_app(client, max_num_waiting=3)) as api:
        response = await api.post("/v1/completions", json={"prompt": prompt, "n": n})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert part in response.json()["error"]["message"]


async def test_as_many_choices_as_can_run_and_wait_are_taken() -> None:
    client = FakeClient(says("x"), engine_info(max_num_seqs=8))
    async with http(make_app(client, max_num_waiting=3)) as api:
        response = await api.post("/v1/completions", json={"prompt": "a", "n": 11})
    assert len(response.json()["choices"]) == 11


async def test_a_limit_of_one_choice_is_singular() -> None:
    client = FakeClient(says("x"), engine_info(max_num_seqs=1))
    async with http(make_app(client, max_num_waiting=0)) as api:
        response = await api.post("/v1/completions", json={"prompt": "a", "n": 2})
    assert "n is 2; one request may have 1 choice (" in response.json()["error"]["message"]


async def test_a_choice_that_fails_fails_the_request_and_ends_the_others() -> None:
    def script(request: EngineRequest) -> list[Step]:
        if request.id.endswith("-1"):
            return says("", finish=FinishReason.ERROR)(request)
        return [None]

    client = FakeClient(script)
    async with http(make_app(client)) as api:
        response = await api.post("/v1/completions", json={"prompt": "a", "n": 3})
    assert response.status_code == 500
    assert client.num_open == 0


async def test_the_largest_seed_wraps_around() -> None:
    client = FakeClient(says("x"))
    async with http(make_app(client)) as api:
        await api.post("/v1/completions", json={"prompt": "a", "n": 2, "seed": 2**63 - 1})
    assert [request.sampling.seed for request in client.requests] == [2**63 - 1, -(2**63)]
