"""Each field and option of Ollama's requests: honored, ignored or refused."""

from typing import Any

import pytest

from tests.helpers.fake_client import (
    MAX_MODEL_LEN,
    FakeClient,
    says,
)
from tests.helpers.ollama import MESSAGES, chat, post

pytestmark = pytest.mark.fast


async def test_options_are_the_samplers() -> None:
    client = FakeClient(says("x"))
    options = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repeat_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "seed": 11,
        "num_predict": 5,
        "stop": ["zz"],
    }
    response = await chat(client, options=options)
    assert response.status_code == 200
    assert "x-ignored-parameters" not in response.headers
    sampling = client.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 7, 0.9, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.2, 0.3, 0.4)
    assert (sampling.seed, sampling.max_tokens, sampling.typical_p) == (11, 5, 0.8)


async def test_mirostat_is_the_samplers() -> None:
    client = FakeClient(says("x"))
    await chat(client, options={"mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2})
    mirostat = client.requests[0].sampling.mirostat
    assert mirostat is not None
    assert (mirostat.tau, mirostat.eta) == (4.0, 0.2)


@pytest.mark.parametrize("num_predict", [-1, -2, None, 10_000])
async def test_without_a_limit_the_context_is_it(num_predict: int | None) -> None:
    client = FakeClient(says("x"))
    await chat(client, options={"num_predict": num_predict, "seed": -1})
    request = client.requests[0]
    assert request.sampling.max_tokens == MAX_MODEL_LEN - len(request.prompt_ids)
    assert request.sampling.seed is None


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"options": {"num_ctx": 64, "num_gpu": 1}}, "options.num_ctx, options.num_gpu"),
        ({"options": {"num_ctx": MAX_MODEL_LEN}}, ""),
        ({"options": {"mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "tfs_z": 1, "repeat_last_n": -1}}, ""),
        ({"options": {"repeat_last_n": 64}}, "options.repeat_last_n"),
        ({"options": {"novelty": 3}, "keep_alive": "5m"}, "keep_alive, options.novelty"),
        ({"truncate": True, "shift": True}, "truncate, shift"),
        ({"truncate": False, "shift": False}, ""),
        ({"n": 2, "logit_bias": {"1": 3}}, "n, logit_bias"),  # other protocols' fields have no meaning here
        ({"format": {"type": "object", "title": "a"}}, ""),
        ({"format": {"type": "string", "format": "unheard-of"}}, "format.format"),
    ],
)
async def test_what_is_not_honored_is_listed_by_the_clients_name(fields: dict[str, Any], ignored: str) -> None:
    client = FakeClient(says("x"))
    response = await chat(client, **fields)
    assert response.status_code == 200, response.text
    listed = response.headers.get("x-ignored-parameters", "")
    assert {*listed.split(", ")} == {*ignored.split(", ")}
    assert len(client.requests) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"options": {"temperature": -1}}, "options.temperature is -1"),
        ({"options": {"num_predict": 0}}, "options.num_predict is 0; it must be an integer of at least 1, or -1"),
        ({"options": {"num_predict": -3}}, "options.num_predict is -3"),
        ({"options": {"num_predict": True}}, "options.num_predict is true"),
        ({"options": {"tfs_z": 0.5}}, "options.tfs_z is not supported"),
        ({"options": {"mirostat": 3}}, "options.mirostat is 3"),
        ({"options": {"stop": 3}}, "options.stop is 3"),
        ({"options": []}, "options is a list"),
        ({"template": "{{ .Prompt }}"}, "template is not supported"),
        ({"context": [1, 2]}, "context is not supported"),
        ({"think": True}, "think is given, and the model"),
        ({"think": "maximal"}, "think is 'maximal'; it must be true, false, low"),
        ({"format": "yaml"}, "format is 'yaml'; it must be \"json\" or a JSON schema"),
        ({"format": {"type": "nothing"}}, "format"),
        ({"keep_alive": []}, "keep_alive is a list of 0 items"),
        ({"keep_alive": "soon"}, "keep_alive is 'soon'; it must be a number of seconds or a duration"),
        ({"keep_alive": "1" * 100_000}, "it must have at most 32 characters"),
        ({"messages": [{"role": "user", "content": "what is it", "images": ["aGk="]}]}, "messages[0].images"),
        ({"messages": [{"role": "judge", "content": "x"}]}, "messages[0].role is 'judge'"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content is 3"),
        ({"tools": [{"function": {}}]}, "tools[0].function.name is missing"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs is 21"),
    ],
)
async def test_a_faulty_field_is_refused_in_the_clients_words(fields: dict[str, Any], message: str) -> None:
    client = FakeClient(says("x"))
    response = await chat(client, **fields)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert message in response.json()["error"]
    assert client.requests == []


async def test_options_that_are_no_parameter_are_refused_where_that_was_asked_for() -> None:
    client = FakeClient(says("x"))
    body = {"messages": MESSAGES, "options": {"novelty": 1}}
    refused = await post(client, "/api/chat", body, strict_parameters=True)
    known = await post(client, "/api/chat", {"messages": MESSAGES, "keep_alive": -1}, strict_parameters=True)
    assert (refused.status_code, known.status_code) == (400, 200)
    assert known.headers["x-ignored-parameters"] == "keep_alive"


async def test_the_prompt_is_blamed_by_its_name() -> None:
    response = await post(FakeClient(says("x")), "/api/generate", {"prompt": "x" * 1000})
    assert response.status_code == 400
    assert "shorten the prompt" in response.json()["error"]
