"""POST /v1/moderations over ASGI, with a fake engine."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from server.decisions.wording import QUESTION_BEGIN
from server.moderations.categories import Category
from tests.helpers.fake_client import MODEL, FakeClient, engine_info, http, make_app, pooling_client, prompt_text, says
from tests.helpers.key_site import Site
from tests.helpers.keys import entry

pytestmark = pytest.mark.fast

URL = "/v1/moderations"
NAMES = [category.value for category in Category]


def _client() -> FakeClient:
    return FakeClient(says("x"), engine_info(max_model_len=2000))


async def _post(client: FakeClient, body: dict[str, Any], **options: Any) -> httpx.Response:
    async with http(make_app(client, **options)) as api:
        return await api.post(URL, json={"min_mass": 0, **body})


async def _answer(client: FakeClient, body: dict[str, Any], **options: Any) -> Any:
    response = await _post(client, body, **options)
    assert response.status_code == 200, response.text
    assert client.num_open == 0
    return response.json()


async def test_the_answer_has_openais_shape() -> None:
    answer = await _answer(_client(), {"input": "A raft."})
    assert answer["id"].startswith("modr-")
    assert answer["model"] == "org/tiny"
    (result,) = answer["results"]
    assert [*result["category_scores"]] == NAMES
    assert result["category_applied_input_types"] == {name: ["text"] for name in NAMES}
    assert result["categories"] == {name: score >= 0.5 for name, score in result["category_scores"].items()}
    assert result["flagged"] is any(result["categories"].values())


async def test_the_option_is_the_threshold() -> None:
    score = (await _answer(_client(), {"input": "A raft."}))["results"][0]["category_scores"]["hate"]
    assert 0 < score < 1
    for threshold, is_flagged in ((score, True), (score * 1.01, False)):
        (result,) = (await _answer(_client(), {"input": "A raft."}, moderation_threshold=threshold))["results"]
        assert result["flagged"] is is_flagged
        assert result["categories"] == dict.fromkeys(NAMES, is_flagged)


async def test_each_category_is_a_statement_about_the_text() -> None:
    client = _client()
    response = await _post(client, {"input": "A raft."})
    assert response.headers["x-moderation-wording"] == "general-2"
    prompts = [prompt_text(client, number) for number in range(len(NAMES))]
    assert len({*prompts}) == len(NAMES)
    assert all(
        prompt.startswith(f"user\nInput:\nA raft.{QUESTION_BEGIN}: Is the following statement") for prompt in prompts
    )
    assert "The text is meant to arouse sexually" in prompts[NAMES.index("sexual")]


async def test_strings_have_a_result_each_and_parts_one_together() -> None:
    texts = ["A raft.", "A boat.", "A raft."]
    client = _client()
    answer = await _answer(client, {"input": texts})
    assert len(answer["results"]) == 3
    singles = [(await _answer(_client(), {"input": text}))["usage"]["input_tokens"] for text in texts]
    assert answer["usage"]["input_tokens"] == answer["usage"]["total_tokens"] == sum(singles)
    client = _client()
    parts = [{"type": "text", "text": text} for text in ("A raft.", "A boat.")]
    assert len((await _answer(client, {"input": parts}))["results"]) == 1
    assert f"Input:\nA raft.\nA boat.{QUESTION_BEGIN}" in prompt_text(client)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "input", "is missing"),
    ({"input": None}, "input", "a list of strings"),
    ({"input": []}, "input", "at least 1"),
    ({"input": ["a"] * 401}, "input", "at most 400"),
    ({"input": ["a", 3]}, "input[1]", "an object with the type text"),
    ({"input": [{"type": "text", "text": "a"}, IMAGE]}, "input[1]", "takes only text"),
    ({"input": [{"type": "audio"}]}, "input[0]", "must be one of text"),
    ({"input": ["a", {"type": "text", "text": "a"}]}, "input", "its item 1 is of another kind"),
    ({"input": ["a", "x" * 3000]}, "input[1]", "input[1] has, with the questions about it,"),
    ({"input": "x" * 3000}, "input", "shorten the text, or split it"),
    ({"input": "a", "min_mass": 2}, "min_mass", "at most 1"),
    ({"input": "a", "stream": True}, "stream", "not supported"),
]


@pytest.mark.parametrize(("body", "param", "message"), BAD)
async def test_a_bad_body_is_refused_by_the_fields_name(body: dict[str, Any], param: str, message: str) -> None:
    client = _client()
    response = await _post(client, body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert message in error["message"]
    assert not client.requests


async def test_a_model_that_would_say_something_else_is_not_suited() -> None:
    response = await _post(_client(), {"input": ["a"], "min_mass": 0.5})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "input", "model_not_suited")
    assert "use another model, or a lower min_mass" in error["message"]
    response = await _post(pooling_client(), {"input": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "model_not_suited")


async def test_the_texts_behind_the_first_wait_for_no_queue_timeout() -> None:
    client = _client()
    await _answer(client, {"input": ["A raft.", "A boat."]}, queue_timeout=60.0)
    deadlines = [request.start_by_s for request in client.requests]
    assert deadlines[0] is not None
    assert not any(deadlines[1:])


async def test_a_key_pays_for_all_texts_or_none(tmp_path: Path) -> None:
    body = {"input": ["A raft.", "A boat."], "min_mass": 0}
    num_tokens = (await _answer(_client(), body))["usage"]["input_tokens"]
    client = _client()
    site = Site(
        tmp_path,
        client,
        entry("ann", tokens_per_minute=num_tokens, max_concurrency=1),
        entry("ben", tokens_per_minute=num_tokens - 1),
    )
    site.stop_time()
    async with site.api("ben") as api:
        refused = await api.post(URL, json=body)
        assert (refused.status_code, client.requests) == (429, [])
    async with site.api("ann") as api:
        assert (await api.post(URL, json=body)).status_code == 200
        assert (await api.post(URL, json=body)).status_code == 429


async def test_moderations_are_counted() -> None:
    async with http(make_app(_client(), moderation_threshold=1.0)) as api:
        answer = (await api.post(URL, json={"input": ["a", "b"], "min_mass": 0})).json()
        metrics = (await api.get("/metrics")).text
    assert 'headrace_moderation_results_total{model_name="org/tiny",outcome="passed"} 2.0' in metrics
    assert 'headrace_decision_answers_total{kind="predicate",model_name="org/tiny",outcome="answer"} 26.0' in metrics
    assert f'headrace_prompt_tokens_total{{model_name="org/tiny"}} {answer["usage"]["input_tokens"]}.0' in metrics


@pytest.mark.parametrize(("min_mass", "status"), [(0, 200), (0.5, 400)])
async def test_a_moderation_of_several_texts_counts_as_one_request(min_mass: float, status: int) -> None:
    async with http(make_app(_client())) as api:
        response = await api.post(URL, json={"input": ["A raft.", "A boat.", "A ship."], "min_mass": min_mass})
        metrics = (await api.get("/metrics")).text
    assert response.status_code == status
    assert f'headrace_request_success_total{{finished_reason="stop",model_name="{MODEL}"}} 1.0' in metrics
    assert f'headrace_service_tier_requests_total{{model_name="{MODEL}",service_tier="default"}} 1.0' in metrics
    assert f'headrace_e2e_request_latency_seconds_count{{model_name="{MODEL}"}} 1.0' in metrics
