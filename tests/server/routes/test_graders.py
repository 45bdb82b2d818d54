"""/v1/fine_tuning/alpha/graders as the official client uses them."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning.alpha import GraderRunResponse, GraderValidateResponse

from engine.command_io.finetuning.graders.grading import Grade, Grading, ScoreAnswer
from engine.protocol import EngineRequest, FinishReason, ServiceClass
from server.routes import graders as routes
from tests.helpers.fake_client import MODEL, FakeClient, Step, make_app, pooling_client, says
from tests.helpers.finetuning import Runner, official

pytestmark = pytest.mark.fast

CHECK = {
    "type": "string_check",
    "name": "same",
    "operation": "ilike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": MODEL,
    "input": [{"role": "user", "content": "Score this: {{sample.output_text}}"}],
    "range": [0, 10],
}
FLAGS = (
    "formula_parse_error",
    "invalid_variable_error",
    "api_model_grader_parse_error",
    "api_model_grader_refusal_error",
    "api_model_grader_server_error",
    "other_error",
    "python_grader_runtime_error",
    "python_grader_server_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
)


def _client(engine: FakeClient | None = None, **options: Any) -> openai.AsyncOpenAI:
    app = make_app(engine or FakeClient(says("7.5", finish=FinishReason.STOP)), **options)
    return official(app, "none", Runner(app))


async def _run(client: openai.AsyncOpenAI, grader: Any, sample: str, **more: Any) -> GraderRunResponse:
    raw = await client.fine_tuning.alpha.graders.with_raw_response.run(grader=grader, model_sample=sample, **more)
    GraderRunResponse.model_validate(json.loads(raw.content), strict=True)
    return raw.parse()


def _flags(found: GraderRunResponse) -> list[str]:
    return [flag for flag in FLAGS if getattr(found.metadata.errors, flag)]


async def test_a_grader_is_validated_and_comes_back() -> None:
    raw = await _client().fine_tuning.alpha.graders.with_raw_response.validate(grader=CHECK)
    GraderValidateResponse.model_validate(json.loads(raw.content), strict=True)
    assert raw.parse().grader.model_dump() == CHECK


async def test_names_that_were_left_out_are_put_in() -> None:
    named = {name: value for name, value in CHECK.items() if name != "name"}
    several = {"type": "multi", "graders": {"first": named}, "calculate_output": "first"}
    raw = await _client().fine_tuning.alpha.graders.with_raw_response.validate(grader=several)
    assert json.loads(raw.content)["grader"] == {
        **several,
        "name": "multi",
        "graders": {"first": {**named, "name": "first"}},
    }


async def test_a_sample_is_graded() -> None:
    found = await _run(_client(), CHECK, "It is PARIS.", item={"answer": "Paris"})
    assert (found.reward, found.sub_rewards, found.api_model_grader_token_usage_per_model) == (1.0, {}, {})
    metadata = found.metadata
    assert (metadata.name, metadata.type, metadata.scores) == ("same", "string_check", {})
    assert (metadata.token_usage, metadata.sampled_model_name) == (None, None)
    assert metadata.execution_time >= 0
    assert _flags(found) == []


async def test_rewards_of_several_graders_are_told() -> None:
    several = {
        "type": "multi",
        "name": "both",
        "graders": {"same": CHECK, "json": {**CHECK, "input": "{{sample.output_json.city}}"}},
        "calculate_output": "0.5 * same + 0.5 * json",
    }
    found = await _run(_client(), several, "Paris", item={"answer": "Paris"})
    assert (found.reward, found.sub_rewards) == (0.5, {"same": 1.0, "json": 0.0})
    assert found.metadata.scores == found.sub_rewards
    assert _flags(found) == ["sample_parse_error"]
    found = await _run(_client(), several, '{"city": "Paris"}', item={"answer": "Paris"})
    assert (found.reward, _flags(found)) == (1.0, [])


async def test_a_missing_field_is_an_error_of_the_run() -> None:
    found = await _run(_client(), CHECK, "Paris")
    assert (found.reward, _flags(found)) == (0.0, ["invalid_variable_error"])


async def test_a_model_of_this_server_is_asked_as_a_batch_is() -> None:
    engine = FakeClient(says("7.5", finish=FinishReason.STOP))
    found = await _run(_client(engine), JUDGE, "Paris")
    assert (found.reward, _flags(found)) == (7.5, [])
    (request,) = engine.requests
    assert request.service_class is ServiceClass.BATCH
    assert request.sampling.temperature == 0.0
    usage = found.api_model_grader_token_usage_per_model[MODEL]
    assert usage == {
        "prompt_tokens": len(request.prompt_ids),
        "completion_tokens": 4,
        "cached_tokens": 2,
        "total_tokens": len(request.prompt_ids) + 4,
    }
    assert found.metadata.token_usage == len(request.prompt_ids) + 4
    assert found.metadata.sampled_model_name == MODEL


async def test_several_models_are_asked_at_once_and_counted_together() -> None:
    def script(request: EngineRequest) -> list[Step]:
        text = bytes(each for each in request.prompt_ids if each < 256).decode(errors="replace")
        return says("2" if "second" in text else "8", finish=FinishReason.STOP)(request)

    second = {**JUDGE, "input": [{"role": "user", "content": "second {{sample.output_text}}"}]}
    several = {"type": "multi", "name": "m", "graders": {"a": JUDGE, "b": second}, "calculate_output": "a - b"}
    found = await _run(_client(FakeClient(script)), several, "Paris")
    assert (found.reward, found.sub_rewards) == (6.0, {"a": 8.0, "b": 2.0})
    assert found.metadata.sampled_model_name == MODEL


async def test_a_model_that_says_no_number_is_an_error_of_the_run() -> None:
    found = await _run(_client(FakeClient(says("good", finish=FinishReason.STOP))), JUDGE, "Paris")
    assert (found.reward, _flags(found)) == (0.0, ["api_model_grader_parse_error"])


async def test_a_model_that_cannot_be_asked_is_an_error_of_the_run() -> None:
    found = await _run(_client(), JUDGE, "long " * 500)
    assert (found.reward, _flags(found)) == (0.0, ["api_model_grader_server_error"])
    assert "tokens" in (found.metadata.errors.api_model_grader_server_error_details or "")


@pytest.mark.parametrize(
    "more",
    [
        {"input": "{{sample.output_text}}" * 30},
        {"reference": "a b " * 2000},
        {"reference": "{{item.answer}}" * 30},
    ],
)
async def test_what_templates_make_long_does_not_hold_up_the_server(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str]
) -> None:
    threads = []

    class Noted(Grading):
        def grade(self, answers: Mapping[str, ScoreAnswer]) -> Grade:
            threads.append(threading.current_thread())
            return super().grade(answers)

    monkeypatch.setattr(routes, "Grading", Noted)
    await _run(_client(), CHECK, "a b", item={"answer": "c"})
    grader = {**CHECK, **more}
    await _run(_client(), grader, "a b " * 50, item={"answer": "c " * 100})
    short, long = threads
    assert short is threading.main_thread()
    assert long is not threading.main_thread()


@pytest.mark.parametrize(
    ("grader", "param", "words"),
    [
        ({"type": "python", "name": "p", "source": ""}, "grader.type", "client's code"),
        ({**CHECK, "operation": "neq"}, "grader.operation", "eq, ne, like, ilike"),
        ({**JUDGE, "model": "gpt-4o"}, "grader", "not served here"),
    ],
)
async def test_a_grader_that_cannot_be_is_refused_by_both(grader: Any, param: str, words: str) -> None:
    graders = _client().fine_tuning.alpha.graders
    for call in (graders.validate(grader=grader), graders.run(grader=grader, model_sample="x")):
        with pytest.raises(openai.BadRequestError) as caught:
            await call
        assert caught.value.param == param
        assert words in caught.value.message


async def test_a_model_that_pools_texts_cannot_grade() -> None:
    with pytest.raises(openai.BadRequestError, match="pools texts"):
        await _client(pooling_client()).fine_tuning.alpha.graders.validate(grader=JUDGE)


async def test_what_has_no_effect_is_told(tmp_path: Path) -> None:
    grader = {**CHECK, "pass_threshold": 0.5}
    raw = await _client().fine_tuning.alpha.graders.with_raw_response.run(
        grader=grader, model_sample="x", extra_body={"color": 1}
    )
    assert raw.headers["x-ignored-parameters"] == "color, grader.pass_threshold"
    strict = _client(strict_parameters=True, data_dir=str(tmp_path))
    with pytest.raises(openai.BadRequestError, match=r"grader\.pass_threshold' is not a parameter"):
        await strict.fine_tuning.alpha.graders.validate(grader=grader)
