"""The sampling steps beyond OpenAI's: what reaches the engine, what switches a step off, and what is refused."""

from typing import Any

import pytest

from engine.protocol import FinishReason, RequestOutput, SamplingParams
from engine.protocol.sampling_params import MAX_DRY_WINDOW, DryParams, MirostatParams, XtcParams
from server.schemas.sampler_steps import DEFAULT_BREAKERS
from tests.helpers.fake_client import IM_END, FakeClient, engine_info, http, make_app, says

pytestmark = pytest.mark.fast

ROUTES = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/completions", {"prompt": "hi"}),
]


async def _sampling(fields: dict[str, Any], route: int = 0, **info: Any) -> SamplingParams:
    client = FakeClient(says("x"), engine_info(**info))
    path, body = ROUTES[route]
    async with http(make_app(client, strict_parameters=True)) as api:
        response = await api.post(path, json={**body, **fields})
    assert response.status_code == 200, response.text
    assert "x-ignored-parameters" not in response.headers
    return client.requests[0].sampling


async def _refused(fields: dict[str, Any]) -> dict[str, Any]:
    async with http(make_app(FakeClient(says("x")))) as api:
        path, body = ROUTES[0]
        response = await api.post(path, json={**body, **fields})
    assert response.status_code == 400
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize("route", [0, 1])
async def test_every_step_reaches_the_engine(route: int) -> None:
    sampling = await _sampling(
        {
            "typical_p": 0.9,
            "top_n_sigma": 1.5,
            "xtc_probability": 0.5,
            "xtc_threshold": 0.2,
            "dry_multiplier": 0.8,
            "dry_base": 2.0,
            "dry_allowed_length": 3,
            "dry_penalty_last_n": 500,
            "dry_sequence_breakers": ["A", "BC"],
            "bad_words": ["no", " never"],
            "allowed_token_ids": [5, 3],
        },
        route,
    )
    assert (sampling.typical_p, sampling.top_n_sigma) == (0.9, 1.5)
    assert sampling.xtc == XtcParams(probability=0.5, threshold=0.2)
    mask = (1 << ord("A")).to_bytes(9, "little")
    breakers = {"breaker_mask": mask, "breaker_sequences": ((ord("B"), ord("C")),)}
    assert sampling.dry == DryParams(multiplier=0.8, base=2.0, allowed_length=3, window=500, **breakers)
    assert sampling.bad_words == tuple(tuple(word) for word in (b"no", b" no", b"never", b" never"))
    assert sampling.allowed_token_ids == (5, 3)
    fields = {"mirostat": 1, "mirostat_tau": 4, "mirostat_eta": 0.2}
    assert (await _sampling(fields, route)).mirostat == MirostatParams(version=1, tau=4.0, eta=0.2)


async def test_absent_fields_have_llama_servers_defaults() -> None:
    assert (await _sampling({"xtc_probability": 1})).xtc == XtcParams(probability=1.0, threshold=0.1)
    assert (await _sampling({"mirostat": 2})).mirostat == MirostatParams(version=2, tau=5.0, eta=0.1)
    dry = (await _sampling({"dry_multiplier": 1})).dry
    assert dry is not None
    assert (dry.base, dry.allowed_length, dry.window) == (1.75, 2, 64)
    assert int.from_bytes(dry.breaker_mask, "little") == sum(1 << ord(text) for text in DEFAULT_BREAKERS)


async def test_a_window_of_minus_one_is_the_largest() -> None:
    dry = (await _sampling({"dry_multiplier": 1, "dry_penalty_last_n": -1, "dry_sequence_breakers": []})).dry
    assert dry == DryParams(multiplier=1.0, window=MAX_DRY_WINDOW)


@pytest.mark.parametrize(
    "fields",
    [
        {"typical_p": 1, "top_n_sigma": 0, "xtc_probability": 0, "dry_multiplier": 0, "mirostat": 0, "bad_words": []},
        {"top_n_sigma": -1, "xtc_threshold": 0.3, "dry_base": 2, "mirostat_tau": 3},
        {"dry_multiplier": 1, "dry_penalty_last_n": 0, "dry_sequence_breakers": ["x"]},
        {"xtc_probability": 0.5, "xtc_threshold": 0.6},
    ],
)
async def test_values_that_switch_a_step_off_are_accepted(fields: dict[str, Any]) -> None:
    assert await _sampling(fields) == await _sampling({})


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 40), ("top_p", 0.9), ("min_p", 0.1), ("typical_p", 0.5), ("top_n_sigma", 1.5), ("xtc_probability", 0.1)],
)
async def test_mirostat_and_another_limit_are_refused(name: str, value: float) -> None:
    error = await _refused({"mirostat": 2, name: value})
    assert error["param"] == name
    assert f"{name} is {value}, but mirostat is 2" in error["message"]


async def test_mirostat_comes_instead_of_the_checkpoints_limits() -> None:
    defaults = {"temperature": 0.6, "top_k": 20.0, "top_p": 0.95, "min_p": 0.1}
    off = {"top_k": -1, "top_p": 1, "min_p": 0, "typical_p": 1.0, "top_n_sigma": -1, "xtc_probability": 0}
    for fields in ({}, off):
        sampling = await _sampling({"mirostat": 2, **fields}, generation_defaults=defaults)
        assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.6, 0, 1.0, 0.0)


async def test_a_bad_word_that_the_model_cannot_generate_is_left_out() -> None:
    assert (await _sampling({"bad_words": ["<|im_end|>"]}, vocab_size=IM_END)).bad_words == ()
    assert (await _sampling({"bad_words": ["<|im_end|>"]})).bad_words[0] == (IM_END,)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_rules_out_every_token_is_a_clients_fault(stream: bool) -> None:
    def refuses(_: Any) -> list[Any]:
        output = RequestOutput(
            id="",
            finish_reason=FinishReason.ERROR,
            error="no token is left",
            is_refused=True,
            refused_param="bad_words",
        )
        return [output]

    path, body = ROUTES[0]
    async with http(make_app(FakeClient(refuses))) as api:
        response = await api.post(path, json={**body, "stream": stream, "bad_words": ["a"]})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "bad_words"
    assert error["message"] == "bad_words cannot be followed: no token is left"
