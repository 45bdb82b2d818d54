"""/v1/models, served names, /version, and the tokenizer's endpoints."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import Quality
from tests.helpers.fake_client import BOS, FINGERPRINT, IM_START, FakeClient, engine_info, http, make_app, says
from tests.helpers.keys import bearer, entry, write_keys

pytestmark = pytest.mark.fast


async def test_models_lists_every_served_name_with_its_limits() -> None:
    async with http(make_app(FakeClient(says("x")), served_model_name=("main", "org/alias"))) as api:
        listed = (await api.get("/v1/models")).json()
        one = (await api.get("/v1/models/org/alias")).json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["main", "org/alias"]
    assert listed["data"][1] == one
    assert {key: one[key] for key in ("object", "root", "parent", "max_model_len")} == {
        "object": "model",
        "root": "org/tiny",
        "parent": None,
        "max_model_len": 200,
    }
    assert isinstance(one["created"], int)


async def test_models_have_the_fields_of_anthropics_cards_too() -> None:
    async with http(make_app(FakeClient(says("x")), served_model_name=("main", "org/alias"))) as api:
        listed = (await api.get("/v1/models")).json()
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, "main", "org/alias")
    card = listed["data"][0]
    assert (card["type"], card["display_name"], card["lifecycle"]) == ("model", "main", "active")
    assert datetime.datetime.fromisoformat(card["created_at"]).timestamp() == card["created"]
    assert card["max_input_tokens"] == card["max_tokens"] == 200


async def test_an_unknown_model_is_404() -> None:
    chat = [{"role": "user", "content": "hi"}]
    async with http(make_app(FakeClient(says("x")))) as api:
        responses = [
            await api.get("/v1/models/nobody"),
            await api.post("/v1/completions", json={"model": "nobody", "prompt": "a"}),
            await api.post("/v1/chat/completions", json={"model": "nobody", "messages": chat}),
            await api.post("/tokenize", json={"model": "nobody", "prompt": "a"}),
        ]
    for response in responses:
        assert response.status_code == 404
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "'org/tiny'" in error["message"]


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": "alias"}, {"model": "main"}])
async def test_answers_carry_the_canonical_name(body: dict[str, Any]) -> None:
    async with http(make_app(FakeClient(says("x")), served_model_name=("main", "alias"))) as api:
        answer = (await api.post("/v1/completions", json={"prompt": "a", **body})).json()
    assert answer["model"] == "main"


async def test_tokenize_has_vllms_shape() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        plain = (await api.post("/tokenize", json={"prompt": "hé"})).json()
        bare = (await api.post("/tokenize", json={"prompt": "h", "add_special_tokens": False})).json()
        named = (await api.post("/tokenize", json={"prompt": "h ", "return_token_strs": True})).json()
    assert plain == {"count": 4, "max_model_len": 200, "tokens": [BOS, 104, 0xC3, 0xA9], "token_strs": None}
    assert bare["tokens"] == [104]
    assert named["token_strs"] == ["<|bos|>", "h", "Ġ"]


async def test_tokenize_applies_the_chat_template() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        answer = (await api.post("/tokenize", json={"messages": [{"role": "user", "content": "h"}]})).json()
    assert answer["tokens"][:7] == [IM_START, *b"user\nh"]
    assert answer["count"] == len(answer["tokens"])


async def test_detokenize_shows_special_tokens() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        answer = (await api.post("/detokenize", json={"tokens": [BOS, 104, 0xC3, 0xA9]})).json()
        refused = await api.post("/detokenize", json={"tokens": [264]})
        negative = await api.post("/detokenize", json={"tokens": [-1]})
    assert answer == {"prompt": "<|bos|>hé"}
    assert refused.json()["error"]["message"] == "tokens has the token id 264; it must be at least 0 and at most 263"
    assert negative.status_code == 400


async def test_version_is_told() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        assert set((await api.get("/version")).json()) == {"version"}


async def test_a_model_shows_its_weights_and_their_quality() -> None:
    quality = Quality(
        kl_divergence=0.01,
        top1_agreement=0.98,
        perplexity=10.5,
        reference_perplexity=10.0,
        num_tokens=99,
        reference="m unquantized",
    )
    info = engine_info(weight_formats={"int4 g32": 7, "bf16": 2}, quality=quality)
    async with http(make_app(FakeClient(says("x"), info))) as api:
        shown = (await api.get("/v1/models/org/tiny")).json()["headrace"]
    assert shown["weight_formats"] == {"int4 g32": 7, "bf16": 2}
    assert shown["quality"] == {
        "kl_divergence": 0.01,
        "top1_agreement": 0.98,
        "perplexity": 10.5,
        "reference_perplexity": 10.0,
        "perplexity_increase": pytest.approx(0.05),
        "num_tokens": 99,
        "reference": "m unquantized",
    }


async def test_a_model_shows_the_dtype_of_its_kv_cache() -> None:
    async with http(make_app(FakeClient(says("x"), engine_info(kv_cache_dtype="fp8_e4m3")))) as api:
        shown = (await api.get("/v1/models/org/tiny")).json()["headrace"]
    assert (shown["dtype"], shown["kv_cache_dtype"]) == ("float32", "fp8_e4m3")


async def test_a_model_shows_what_its_adapters_may_take() -> None:
    async with http(make_app(FakeClient(says("x"), engine_info(adapter_bytes=7 << 20)))) as api:
        shown = (await api.get("/v1/models/org/tiny")).json()["headrace"]
    assert shown["adapter_memory_bytes"] == 7 << 20


async def test_a_model_whose_quality_was_not_measured_has_none() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        shown = (await api.get("/v1/models/org/tiny")).json()["headrace"]
    assert shown == {
        "name": "org/tiny",
        "state": "loaded",
        "capabilities": [],  # nobody has asked for its chat template yet
        "kv_cache_bytes": 0,
        "system_fingerprint": FINGERPRINT,
        "dtype": "float32",
        "device": "cpu",
        "weight_bytes": 0,
        "weight_formats": {},
        "default_sampling_params": {
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
        },
        "quality": None,
    }


async def test_a_model_shows_the_sampling_parameters_of_its_checkpoint() -> None:
    info = engine_info(generation_defaults={"temperature": 0.7, "top_k": 20})
    async with http(make_app(FakeClient(says("x"), info))) as api:
        shown = (await api.get("/v1/models/org/tiny")).json()["headrace"]["default_sampling_params"]
    assert (shown["temperature"], shown["top_k"], shown["top_p"]) == (0.7, 20, 1.0)


async def test_a_model_is_listed_by_the_last_part_of_its_name_and_answers_to_all_of_it() -> None:
    async with http(make_app(FakeClient(says("x")), served_model_name=())) as api:
        listed = (await api.get("/v1/models")).json()["data"]
        named = [
            await api.post("/v1/completions", json={"prompt": "a", "model": name}) for name in ("tiny", "org/tiny")
        ]
        card = await api.get("/v1/models/org/tiny")
        unknown = await api.post("/v1/completions", json={"prompt": "a", "model": "org"})
        ollama = [await api.post("/api/show", json={"model": name}) for name in ("tiny", "tiny:latest", "org/tiny")]
    assert [card["id"] for card in listed] == ["tiny"]
    assert [answer.json()["model"] for answer in named] == ["tiny", "tiny"]
    assert card.status_code == 200
    assert unknown.json()["error"]["message"] == "the model 'org' is not served here; this server has 'tiny'"
    assert [answer.status_code for answer in ollama] == [200, 200, 200]


async def test_a_key_that_lists_the_path_may_use_the_model_by_both_names(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys.yaml", entry("path", models=["org/tiny"]), entry("none-of-it", models=["x"]))
    app = make_app(FakeClient(says("x")), served_model_name=(), api_keys_file=keys)
    async with http(app, **bearer("path")) as path, http(app, **bearer("none-of-it")) as other:
        bodies = [{"prompt": "a", "model": name} for name in ("tiny", "org/tiny")]
        assert [(await path.post("/v1/completions", json=body)).status_code for body in bodies] == [200, 200]
        assert [card["id"] for card in (await path.get("/v1/models")).json()["data"]] == ["tiny"]
        assert [(await other.post("/v1/completions", json=body)).status_code for body in bodies] == [404, 404]
