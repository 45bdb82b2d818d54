"""POST /v1/decisions with a calibration: where it fits, probabilities change, and header and model card show it."""

import contextlib
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from engine.client.queue.batch_lane import BatchLane
from engine.protocol import AdapterInfo, AdapterRef, EngineRequest, FinishReason, RequestOutput, TokenLogprobs
from server.batches.running import run_body
from server.calibration.calibration import Identity, ModelCalibration, Platt, Temperature, sigmoid
from server.calibration.files import Calibrations, write_calibration
from server.config.lora import LoraConfig
from server.decisions.calibrating import check_given, decision_identity
from server.keys.caller import ANYBODY
from server.served.model import ServedModel
from tests.helpers.calibrations import IDENTITY, calibration
from tests.helpers.fake_client import MODEL, FakeClient, Step, engine_info, http, make_app, pooling_client

pytestmark = pytest.mark.fast

URL = "/v1/decisions"
BODY: dict[str, Any] = {
    "input": "A raft.",
    "questions": [
        {"type": "predicate", "instructions": "It floats."},
        {"type": "choice", "instructions": "What is it?", "choices": [{"value": "boat"}, {"value": "ship"}]},
    ],
    "min_mass": 0,
}
FIT = Platt(2.0, 0.5)
RAW = 0.3 / (0.3 + 0.1)


def _language(request: EngineRequest) -> list[Step]:
    """A model that begins each answer with y or Y at 0.15, with any other letter at 0.05, and ends it for certain."""
    first = {ord("y"): 0.15, ord("Y"): 0.15}
    is_first = request.prompt_ids[-1] == ord("\n")
    row = [(each, math.log(first.get(each, 0.05)) if is_first else 0.0) for each in request.sampling.logprob_token_ids]
    scores = TokenLogprobs(0, row[0][1], row)
    return [RequestOutput(id=request.id, new_ids=[0], logprobs=[scores], finish_reason=FinishReason.LENGTH)]


def _client(folder: Path | None = None) -> FakeClient:
    info = engine_info(max_model_len=4096, calibration_folder=None if folder is None else str(folder))
    client = FakeClient(_language, info)
    client.adapters["pirate"] = AdapterInfo(digest=b"\x01\x02", rank=2, num_bytes=8)
    return client


async def _model(client: FakeClient, name: str = MODEL, **options: Any) -> ServedModel:
    model: ServedModel = make_app(client, **options).state.context.models.find(name)
    return model


async def _identity(client: FakeClient, **options: Any) -> Identity:
    model = await _model(client, **options)
    identity = decision_identity(model, await model.text_model())
    assert identity is not None
    return identity


async def _own() -> ModelCalibration:
    return calibration(await _identity(_client()), predicate=FIT)


async def _post(client: FakeClient, body: dict[str, Any], **options: Any) -> httpx.Response:
    async with http(make_app(client, **options)) as api:
        return (await api.post(URL, json=body)).raise_for_status()


def _predicate(response: httpx.Response) -> float:
    return float(response.json()["answers"][0]["probability"])


async def test_a_calibration_in_the_cache_changes_the_kinds_that_it_has(tmp_path: Path) -> None:
    own = await _own()
    write_calibration(own, tmp_path)
    response = await _post(_client(tmp_path), BODY)
    expected = sigmoid(2.0 * math.log(RAW / (1 - RAW)) + 0.5)
    assert _predicate(response) == pytest.approx(expected, abs=1e-5)
    assert [each["probability"] for each in response.json()["answers"][1]["probabilities"]] == [0.5, 0.5]
    assert response.headers["x-decision-calibration"] == f"{own.identity.fingerprint}; kinds=predicate"


async def test_a_request_can_ask_for_raw_probabilities(tmp_path: Path) -> None:
    write_calibration(await _own(), tmp_path)
    response = await _post(_client(tmp_path), {**BODY, "calibrated": False})
    assert _predicate(response) == pytest.approx(RAW, abs=1e-5)
    assert response.headers["x-decision-calibration"] == "none"


async def test_without_a_calibration_the_answers_say_so(tmp_path: Path) -> None:
    write_calibration(await _own(), tmp_path)
    client = _client(tmp_path / "other")
    async with http(make_app(client)) as api:
        response = await api.post(URL, json=BODY)
        card = (await api.get(f"/v1/models/{MODEL}")).json()
    assert _predicate(response) == pytest.approx(RAW, abs=1e-5)
    assert response.headers["x-decision-calibration"] == "none"
    assert "calibration" not in card["headrace"]
    only_choices = {**BODY, "questions": BODY["questions"][1:]}
    response = await _post(_client(tmp_path), only_choices)
    assert response.headers["x-decision-calibration"] == "none"


async def test_the_model_card_shows_the_calibration(tmp_path: Path) -> None:
    own = await _own()
    write_calibration(own, tmp_path)
    async with http(make_app(_client(tmp_path))) as api:
        (card,) = (await api.get("/v1/models")).json()["data"]
    assert card["headrace"]["calibration"] == {
        "fingerprint": own.identity.fingerprint,
        "created": 1_700_000_000,
        "kinds": {"predicate": {"num_answers": 60, "names": [], "calibration_error": 0.1}},
    }


@pytest.mark.parametrize("option", ["chat_template", "reasoning_parser"])
async def test_a_given_calibration_for_another_prompt_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, option: str
) -> None:
    path = str(write_calibration(await _own(), tmp_path))
    changed = {"chat_template": "{{ messages[0].content }}\n\n", "reasoning_parser": "qwen3"}[option]
    await check_given(await _model(_client(), calibration=path), [])
    assert not caplog.records
    await check_given(await _model(_client(), calibration=path, **{option: changed}), [])
    assert "is not used for what is loaded so far: it was made for tiny, and the chat template differ" in caplog.text
    assert _predicate(await _post(_client(), BODY, calibration=path)) > 0.8
    response = await _post(_client(), BODY, calibration=path, **{option: changed})
    assert _predicate(response) == pytest.approx(RAW, abs=1e-5)


async def test_choices_of_system_one_are_calibrated_and_nouls_are_not(tmp_path: Path) -> None:
    identity = await _identity(_client())
    write_calibration(calibration(identity, predicate=FIT, choice=Temperature(100.0)), tmp_path)
    questions = {
        "a": {"type": "noul", "instructions": "Does it float?"},
        "b": {"type": "choice", "instructions": "Does it float?", "criteria": {"yes": None, "of course": None}},
    }
    async with http(make_app(_client(tmp_path))) as api:
        body = {"state": "A raft.", "questions": questions, "min_mass": 0}
        response = (await api.post("/v1/systemone", json=body)).raise_for_status()
    answers = response.json()["answers"]
    assert answers["a"]["noul"] == pytest.approx(RAW, abs=1e-5)
    assert answers["b"]["probabilities"]["yes"] == pytest.approx(0.5, abs=0.01)
    assert response.headers["x-decision-calibration"] == f"{identity.fingerprint}; kinds=choice"


async def test_an_adapter_has_a_calibration_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"lora": LoraConfig(lora_modules=("pirate=/adapters/pirate",))}
    base = (await _own()).identity
    adapted = msgspec.structs.replace(base, adapter="0102")
    path = str(write_calibration(calibration(adapted, predicate=FIT), tmp_path))
    app = make_app(_client(), calibration=path, enable_lora=True, **options)
    models = app.state.context.models
    await models.adapters.read("pirate", models.find(MODEL))
    async with http(app) as api:
        plain, pirate = [
            (await api.post(URL, json={**BODY, "model": name})).raise_for_status() for name in (MODEL, "pirate")
        ]
    assert plain.headers["x-decision-calibration"] == "none"
    assert pirate.headers["x-decision-calibration"].startswith(adapted.fingerprint)
    assert _predicate(pirate) > _predicate(plain)
    await check_given(models.find(MODEL), models.adapters)
    assert "--calibration" not in caplog.text


async def test_an_adapter_that_is_replaced_while_its_line_waits_has_the_new_ones_calibration(tmp_path: Path) -> None:
    client = _client(tmp_path)
    client.adapters["other"] = AdapterInfo(digest=b"\x03\x04", rank=2, num_bytes=8)
    base = (await _own()).identity
    write_calibration(calibration(msgspec.structs.replace(base, adapter="0304"), predicate=FIT), tmp_path)
    options = {"lora": LoraConfig(lora_modules=("pirate=/adapters/pirate",))}
    context = make_app(client, enable_lora=True, **options).state.context
    model = context.models.find(MODEL)
    await context.models.adapters.read("pirate", model)

    class Replacing(BatchLane):
        @contextlib.asynccontextmanager
        async def room(self, num_requests: int = 1) -> AsyncIterator[None]:
            await context.models.adapters.load("pirate", "/adapters/other", model, in_place=True)
            async with super().room(num_requests):
                yield

    client.batch_lane = Replacing()
    answer = await run_body(context, ANYBODY, URL, {**BODY, "model": "pirate"})
    assert client.requests[0].adapter == AdapterRef("pirate", "/adapters/other", b"\x03\x04")
    assert msgspec.json.decode(answer.body)["answers"][0]["probability"] == pytest.approx(
        FIT.apply([RAW, 1 - RAW])[0], abs=1e-5
    )


async def test_a_model_that_answers_no_decisions_uses_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(write_calibration(calibration(IDENTITY), tmp_path))
    model: ServedModel = make_app(pooling_client(), calibration=path).state.context.models.default
    assert isinstance(model.calibrations, Calibrations)
    await check_given(model, [])
    assert "answers no decisions" in caplog.text
