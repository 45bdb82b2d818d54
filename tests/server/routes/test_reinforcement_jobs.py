"""Jobs by reinforcement at /v1/fine_tuning/jobs, as the official client makes them."""

from pathlib import Path
from typing import Any

import openai
import pytest

from engine.command_io.finetuning.job import Hyperparameters, ScaleRewards, TrainingMethod
from tests.helpers.fake_client import MODEL
from tests.helpers.finetuning import create, finetuning_served, upload

pytestmark = pytest.mark.fast

CHECK = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": MODEL,
    "input": [{"role": "user", "content": "Score {{sample.output_text}}"}],
}
SEVERAL = {
    "type": "multi",
    "name": "all",
    "graders": {"same": CHECK, "judge": JUDGE},
    "calculate_output": "0.5 * same + 0.5 * judge",
}


def _method(grader: Any = CHECK, **more: Any) -> dict[str, Any]:
    return {"type": "reinforcement", "reinforcement": {"grader": grader, **more}}


async def test_a_job_has_its_grader_and_hyperparameters(tmp_path: Path) -> None:
    given = {
        "n_epochs": 2,
        "batch_size": "auto",
        "compute_multiplier": 1.5,
        "eval_interval": 10,
        "eval_samples": 2,
        "reasoning_effort": "default",
        "max_completion_tokens": 32,
        "kl_weight": 0.05,
        "scale_rewards": "group",
    }
    async with finetuning_served(tmp_path) as (client, runner, _):
        job = await create(client, method=_method(hyperparameters=given), validation_file=await upload(client))
        assert job.method.type == "reinforcement"
        assert job.method.reinforcement.grader.model_dump() == CHECK
        shown = job.method.reinforcement.hyperparameters.model_dump(exclude_unset=True)
        left = {"reasoning_effort"}
        assert shown == {
            **{name: value for name, value in given.items() if name not in left},
            "learning_rate_multiplier": "auto",
        }
        record = await runner.record(job.id)
        assert (record.method, record.grader) == (TrainingMethod.REINFORCEMENT, CHECK)
        assert record.hyperparameters == Hyperparameters(
            n_epochs=2,
            compute_multiplier=1.5,
            eval_interval=10,
            eval_samples=2,
            max_completion_tokens=32,
            kl_weight=0.05,
            scale_rewards=ScaleRewards.GROUP,
        )
        assert runner.num_checked == 1


async def test_several_graders_are_answered_by_their_names(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        raw = await client.fine_tuning.jobs.with_raw_response.create(
            model=MODEL, training_file=await upload(client), method=_method({**SEVERAL, "pass_threshold": 1})
        )
        assert raw.headers["x-ignored-parameters"] == "method.reinforcement.grader.pass_threshold"
        job = raw.parse()
        assert job.method.reinforcement.grader.graders == {"same": CHECK, "judge": JUDGE}
        assert runner.num_checked == 1
    async with finetuning_served(tmp_path / "strict", strict_parameters=True) as (client, _, _):
        with pytest.raises(openai.BadRequestError, match="pass_threshold' is not a parameter"):
            await create(client, method=_method({**SEVERAL, "pass_threshold": 1}))


def _settings(**values: Any) -> dict[str, Any]:
    return {"method": _method(hyperparameters=values)}


_HYPER = "method.reinforcement.hyperparameters"


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"method": {"type": "reinforcement"}}, "method.reinforcement.grader", "needs a grader"),
        ({"method": {"type": "reinforcement", "reinforcement": {}}}, "method.reinforcement.grader", "needs a grader"),
        ({"method": _method({})}, "method.reinforcement.grader.type", "must be one of"),
        (
            {"method": _method({**CHECK, "reference": "{{x}}"})},
            "method.reinforcement.grader.reference",
            "{{item.FIELD}}",
        ),
        ({"method": _method({"type": "python"})}, "method.reinforcement.grader.type", "client's code"),
        ({"method": _method({**CHECK, "input": "x"})}, "method.reinforcement.grader", "reads nothing of the sample"),
        (
            {"method": _method({**CHECK, "input": "{{sample.output_tools[0].function.name}}"})},
            "method.reinforcement.grader",
            "does not look for calls",
        ),
        ({"method": _method({**JUDGE, "model": "gpt-4o"})}, "method.reinforcement.grader", "not served here"),
        (
            {"method": _method(response_format={"type": "json_schema", "json_schema": {}})},
            "method.reinforcement.response_format",
            "sample.output_json",
        ),
        ({"method": _method(sampler="x")}, "method.reinforcement.sampler", "not supported"),
        ({"method": {**_method(), "dpo": {}}}, "method.dpo", "method.type is 'reinforcement'"),
        (_settings(beta=0.1), f"{_HYPER}.beta", "it is dpo's"),
        (_settings(max_length=64), f"{_HYPER}.max_length", "max_completion_tokens"),
        (_settings(max_completion_tokens=201), f"{_HYPER}.max_completion_tokens", "takes 200 tokens"),
        (_settings(group_size=1), f"{_HYPER}.group_size", "from 2 to 128"),
        (_settings(group_size=4, compute_multiplier=2), f"{_HYPER}.compute_multiplier", "give one"),
        (_settings(eval_samples=2), f"{_HYPER}.eval_samples", "validation file"),
        (_settings(eval_interval=2), f"{_HYPER}.eval_interval", "validation file"),
        (_settings(reasoning_effort="high"), f"{_HYPER}.reasoning_effort", "leave it out"),
        (_settings(reasoning_effort="huge"), f"{_HYPER}.reasoning_effort", "default, low, medium, high"),
        (_settings(scale_rewards="all"), f"{_HYPER}.scale_rewards", "group, batch, none"),
        (_settings(kl_weight=-1), f"{_HYPER}.kl_weight", "at least 0"),
        (_settings(temperature=1), f"{_HYPER}.temperature", "is not a hyperparameter"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    change: dict[str, Any], param: str, words: str, tmp_path: Path
) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        with pytest.raises(openai.BadRequestError) as caught:
            await create(client, **change)
        assert caught.value.param == param
        assert words in caught.value.message
        assert runner.woken == []
