"""best_of: which of several answers are given, and that all are paid for."""

from typing import Any

import pytest

from engine.protocol import EngineRequest
from tests.helpers.fake_client import FakeClient, Script, Step, http, make_app, says

pytestmark = pytest.mark.fast

TEXT_URL = "/v1/completions"

# Of the fake engine's tokens the lower bytes are the likelier: "aa" has -0.97 a token, "zb" -1.1 and "b" -0.98.
ANSWERS = ["zb", "b", "aa", "zzz"]


def _each_its_own(answers: list[str]) -> Script:
    scripts = iter([says(answer, per_step=100) for answer in answers] * 2)

    def script(request: EngineRequest) -> list[Step]:
        return next(scripts)(request)

    return script


async def _post(client: FakeClient, body: dict[str, Any]) -> Any:
    async with http(make_app(client)) as api:
        return await api.post(TEXT_URL, json={"prompt": "x", **body})


@pytest.mark.parametrize(("n", "best"), [(1, ["aa"]), (2, ["aa", "b"]), (3, ["aa", "b", "zb"])])
async def test_those_with_the_likeliest_tokens_are_given_best_first(n: int, best: list[str]) -> None:
    answer = (await _post(FakeClient(_each_its_own(ANSWERS)), {"n": n, "best_of": 4})).json()
    assert [choice["text"] for choice in answer["choices"]] == best
    assert [choice["index"] for choice in answer["choices"]] == list(range(n))
    assert [choice["logprobs"] for choice in answer["choices"]] == [None] * n


async def test_all_candidates_are_counted() -> None:
    answer = (await _post(FakeClient(_each_its_own(ANSWERS)), {"best_of": 4})).json()
    assert answer["usage"]["completion_tokens"] == len("".join(ANSWERS))
    assert answer["usage"]["prompt_tokens"] == 2


async def test_tokens_after_a_stop_string_do_not_count() -> None:
    # "b" and the stop string have -0.72 a token; with what the engine sent after it, -1.1.
    client = FakeClient(_each_its_own(["ccc", "b.zzzzzz"]))
    answer = (await _post(client, {"best_of": 2, "stop": "."})).json()
    assert answer["choices"][0]["text"] == "b"


async def test_each_prompt_has_its_own_best() -> None:
    body = {"prompt": ["x", "y"], "best_of": 2, "logprobs": 1, "return_token_ids": True, "prompt_logprobs": 0}
    answer = (await _post(FakeClient(_each_its_own(ANSWERS)), body)).json()
    assert [choice["text"] for choice in answer["choices"]] == ["b", "aa"]
    assert [choice["logprobs"]["tokens"] for choice in answer["choices"]] == [["b"], ["a", "a"]]
    assert [choice["prompt_token_ids"][1] for choice in answer["choices"]] == [ord("x"), ord("y")]
    assert [list(choice["prompt_logprobs"][1]) for choice in answer["choices"]] == [[str(ord("x"))], [str(ord("y"))]]


async def test_echo_stands_before_the_best() -> None:
    answer = (await _post(FakeClient(_each_its_own(ANSWERS)), {"best_of": 4, "echo": True})).json()
    assert answer["choices"][0]["text"] == "xaa"


async def test_every_candidate_has_its_own_seed() -> None:
    client = FakeClient(_each_its_own(ANSWERS))
    await _post(client, {"best_of": 4, "seed": 7})
    assert [request.sampling.seed for request in client.requests] == [7, 8, 9, 10]
    assert [request.sampling.logprobs for request in client.requests] == [0] * 4


@pytest.mark.parametrize("stream", [False, True])
async def test_best_of_n_costs_no_log_probabilities(stream: bool) -> None:
    client = FakeClient(_each_its_own(ANSWERS))
    assert (await _post(client, {"n": 4, "best_of": 4, "stream": stream})).status_code == 200
    assert [request.sampling.logprobs for request in client.requests] == [None] * 4


@pytest.mark.parametrize(
    "fields", [{"best_of": 2, "stream": True}, {"best_of": 1, "n": 2}, {"best_of": 0}, {"best_of": 129}]
)
async def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    response = await _post(FakeClient(says("x")), fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "best_of"


async def test_more_than_the_queue_could_hold_names_the_field() -> None:
    async with http(make_app(FakeClient(says("x")), max_num_waiting=2)) as api:
        response = await api.post(TEXT_URL, json={"prompt": "x", "best_of": 11})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "best_of"
    assert response.json()["error"]["message"].startswith("best_of is 11; one request may have 10 choices")
