"""/v1/fine_tuning/jobs as the official client uses it: every answer is checked against the client's own types."""

import re
from pathlib import Path
from typing import Any

import openai
import pytest

from engine.command_io.finetuning.job import Hyperparameters, Order, TrainingMethod
from engine.protocol import AdapterInfo
from tests.helpers.fake_client import MODEL, FakeClient, pooling_client, says
from tests.helpers.finetuning import check_types, create, finetuning_served, upload

pytestmark = pytest.mark.fast


async def test_a_job_is_made_as_asked(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        train, valid = await upload(client), await upload(client)
        job = await create(
            client,
            training_file=train,
            validation_file=valid,
            suffix="demo-1",
            seed=7,
            metadata={"team": "red"},
            method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": "auto"}}},
        )
        assert re.fullmatch(r"ftjob-[A-Za-z0-9]{24}", job.id)
        assert (job.status, job.model, job.training_file, job.validation_file) == (
            "validating_files",
            MODEL,
            train,
            valid,
        )
        assert (job.seed, job.metadata, job.user_provided_suffix) == (7, {"team": "red"}, "demo-1")
        assert (job.fine_tuned_model, job.finished_at, job.error, job.trained_tokens) == (None, None, None, None)
        assert (job.result_files, job.integrations) == ([], [])
        assert job.hyperparameters.model_dump(exclude_unset=True) == {
            "n_epochs": 3,
            "batch_size": "auto",
            "learning_rate_multiplier": "auto",
        }
        assert job.method.type == "supervised"
        assert job.method.supervised.hyperparameters.n_epochs == 3
        assert runner.woken == [job.id]
        assert await client.fine_tuning.jobs.retrieve(job.id) == job
        record = await runner.record(job.id)
        assert re.fullmatch(r"ft:tiny:headrace:demo-1:[A-Za-z0-9]{8}", record.name)
        assert (record.method, record.hyperparameters) == (
            TrainingMethod.SUPERVISED,
            Hyperparameters(n_epochs=3, max_length=200),
        )
        (event,) = (await client.fine_tuning.jobs.list_events(job.id)).data
        assert (event.message, event.level, event.type) == (f"Created fine-tuning job: {job.id}", "info", "message")
        assert runner.num_checked == 3


async def test_a_seed_is_drawn_where_none_is_given(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        seeds = [(await create(client)).seed for _ in range(3)]
        assert len(set(seeds)) == 3
        job = (await client.fine_tuning.jobs.list(limit=1)).data[0]
        assert (await runner.record(job.id)).seed == job.seed


async def test_hyperparameters_of_this_server_pass_the_client_untouched(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        given = {"n_epochs": 1, "lora_rank": 16, "order": "length", "target_modules": ["q_proj"], "max_length": 64}
        job = await create(client, method={"type": "pretraining", "pretraining": {"hyperparameters": given}})
        assert job.method.type == "pretraining"
        assert job.method.pretraining["hyperparameters"] == {
            **given,
            "batch_size": "auto",
            "learning_rate_multiplier": "auto",
        }
        record = await runner.record(job.id)
        assert record.method is TrainingMethod.PRETRAINING
        assert record.hyperparameters == Hyperparameters(
            n_epochs=1, lora_rank=16, order=Order.LENGTH, target_modules=["q_proj"], max_length=64
        )


async def test_the_old_place_of_hyperparameters_is_read(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        job = await create(client, hyperparameters={"n_epochs": 4, "learning_rate_multiplier": 2})
        assert (job.hyperparameters.n_epochs, job.hyperparameters.learning_rate_multiplier) == (4, 2.0)
        assert (await runner.record(job.id)).hyperparameters == Hyperparameters(
            n_epochs=4, learning_rate_multiplier=2.0, max_length=200
        )


def _settings(method: str, **hyperparameters: Any) -> dict[str, Any]:
    return {"method": {"type": method, method: {"hyperparameters": hyperparameters}}}


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"model": "gpt-4o-mini"}, "model", "not served here; this server has 'org/tiny'"),
        ({"training_file": "file-none"}, "training_file", "there is no such file of this key"),
        ({"validation_file": "file-none"}, "validation_file", "there is no such file of this key"),
        ({"suffix": "my model"}, "suffix", "letters, digits"),
        ({"suffix": "x" * 65}, "suffix", "at most 64"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"seed": 2**31}, "seed", "at most"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "at most 16"),
        ({"integrations": [{"type": "mlflow"}]}, "integrations[0].type", "must be 'wandb'"),
        ({"method": {"type": "kto"}}, "method.type", "trains with supervised, dpo, pretraining, reinforcement"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised", "method.type is 'dpo'"),
        (_settings("dpo", beta=3), "method.dpo.hyperparameters.beta", "above 0 and at most 2"),
        (_settings("supervised", beta=1), "method.supervised.hyperparameters.beta", "it is dpo's"),
        (_settings("supervised", rpo_alpha=1), "method.supervised.hyperparameters.rpo_alpha", "it is dpo's"),
        (_settings("dpo", n_epochs=0), "method.dpo.hyperparameters.n_epochs", "from 1 to 1000"),
        (_settings("supervised", lora_rank=65), "method.supervised.hyperparameters.lora_rank", "--max-lora-rank"),
        (_settings("supervised", max_length=201), "method.supervised.hyperparameters.max_length", "takes 200 tokens"),
        (_settings("supervised", warmup_steps=1), "method.supervised.hyperparameters.warmup_steps", "has"),
        (
            _settings("supervised", group_size=4),
            "method.supervised.hyperparameters.group_size",
            "it is reinforcement's",
        ),
        (
            _settings("supervised", reasoning_effort="low"),
            "method.supervised.hyperparameters.reasoning_effort",
            "it is reinforcement's",
        ),
        (_settings("supervised", early_stopping=1), "method.supervised.hyperparameters.early_stopping", "validation"),
        (_settings("supervised", pacing="linear"), "method.supervised.hyperparameters.pacing", "needs an order"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs", "'many'"),
        (
            {"hyperparameters": {"n_epochs": 1}, **_settings("supervised", n_epochs=2)},
            "hyperparameters.n_epochs",
            "give one of them",
        ),
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
        assert (await client.fine_tuning.jobs.list()).data == []


async def test_a_file_of_another_purpose_and_one_for_both_are_refused(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, _, _):
        with pytest.raises(openai.BadRequestError, match="purpose 'batch'; upload it with 'fine-tune'"):
            await create(client, training_file=await upload(client, "batch"))
        train = await upload(client)
        with pytest.raises(openai.BadRequestError, match="validation_file is the training_file"):
            await create(client, training_file=train, validation_file=train)


async def test_a_server_that_cannot_fine_tune_says_what_it_needs(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path, data_dir=None) as (client, _, _):
        with pytest.raises(openai.BadRequestError, match=r"start it with --data-dir FOLDER .for jobs and adapters."):
            await create(client)
    async with finetuning_served(tmp_path, enable_lora=False) as (client, _, _):
        with pytest.raises(openai.BadRequestError, match=r"start it with --enable-lora .to serve"):
            await create(client)
    async with finetuning_served(tmp_path, data_dir=None, enable_lora=False) as (client, _, _):
        with pytest.raises(openai.BadRequestError, match=r"start it with --data-dir .* and --enable-lora"):
            await create(client)
    async with finetuning_served(tmp_path, engine=pooling_client()) as (client, _, _):
        with pytest.raises(openai.BadRequestError, match="pools texts"):
            await create(client)


async def test_integrations_are_ignored_and_said_to_be(tmp_path: Path) -> None:
    wandb = [{"type": "wandb", "wandb": {"project": "p"}}]
    async with finetuning_served(tmp_path) as (client, _, _):
        raw = await client.fine_tuning.jobs.with_raw_response.create(
            model=MODEL, training_file=await upload(client), integrations=wandb, extra_body={"color": "blue"}
        )
        assert raw.headers["x-ignored-parameters"] == "color, integrations[0]"
        job = raw.parse()
        assert job.integrations == []
        events = (await client.fine_tuning.jobs.list_events(job.id)).data
        assert [event.level for event in events] == ["warn", "info"]
    async with finetuning_served(tmp_path / "strict", strict_parameters=True) as (client, _, _):
        with pytest.raises(openai.BadRequestError, match=r"'integrations\[0\]' is not a parameter"):
            await create(client, integrations=wandb)


async def test_a_repeated_request_makes_no_second_job(tmp_path: Path) -> None:
    async with finetuning_served(tmp_path) as (client, runner, _):
        train = await upload(client)
        key = {"Idempotency-Key": "once"}
        made = await create(client, training_file=train, seed=1, extra_headers=key)
        assert await create(client, training_file=train, seed=1, extra_headers=key) == made
        assert runner.woken.count(made.id) == len(runner.woken)
        with pytest.raises(openai.BadRequestError, match="sent before with another request"):
            await create(client, training_file=train, seed=2, extra_headers=key)
        with pytest.raises(openai.BadRequestError, match="must have 1 to 255"):
            await create(client, training_file=train, extra_headers={"Idempotency-Key": "x" * 256})
        assert len((await client.fine_tuning.jobs.list()).data) == 1


async def _with_adapter(app: Any, folder: Path, config: str | None) -> None:
    folder.mkdir()
    if config is not None:
        (folder / "adapter_config.json").write_text(config)
    context = app.state.context
    await context.models.adapters.load(
        "ft:tiny:headrace::parent00", str(folder), context.models.default, in_place=False
    )


async def test_training_goes_on_with_an_adapter(tmp_path: Path) -> None:
    engine = FakeClient(says("Because."))
    engine.adapters["parent"] = AdapterInfo(digest=b"x", rank=4, num_bytes=1)
    async with finetuning_served(tmp_path, engine=engine) as (client, runner, app):
        await _with_adapter(app, tmp_path / "parent", '{"r": 4, "lora_alpha": 12, "peft_type": "LORA"}')
        job = await create(client, model="ft:tiny:headrace::parent00", suffix="more")
        record = await runner.record(job.id)
        assert (job.model, record.base_model) == ("ft:tiny:headrace::parent00", MODEL)
        assert record.start == "parent"
        assert record.name.startswith("ft:tiny:headrace:more:")
        assert (record.hyperparameters.lora_rank, record.hyperparameters.lora_alpha) == (4, 12.0)
        with pytest.raises(openai.BadRequestError, match="the adapter to continue has 4"):
            await create(client, model="ft:tiny:headrace::parent00", hyperparameters={"lora_rank": 8})


async def test_an_adapter_that_is_no_folder_of_pefts_cannot_be_gone_on_with(tmp_path: Path) -> None:
    engine = FakeClient(says("Because."))
    engine.adapters["parent"] = AdapterInfo(digest=b"x", rank=4, num_bytes=1)
    async with finetuning_served(tmp_path, engine=engine) as (client, _, app):
        await _with_adapter(app, tmp_path / "parent", None)
        with pytest.raises(openai.BadRequestError, match="name its base model"):
            await create(client, model="ft:tiny:headrace::parent00")


async def test_what_of_openais_fine_tuning_is_not_here_says_so(tmp_path: Path) -> None:
    name = "ft:tiny:headrace::abcdefgh:ckpt-step-1"
    async with finetuning_served(tmp_path) as (client, _, _):
        permissions = client.fine_tuning.checkpoints.permissions
        with pytest.raises(openai.NotFoundError, match="keys file"):
            await permissions.create(name, project_ids=["p"])
        with pytest.raises(openai.NotFoundError, match="have no permissions"):
            await permissions.list(name)
        with pytest.raises(openai.NotFoundError, match="have no permissions"):
            await permissions.delete("cp_1", fine_tuned_model_checkpoint=name)


def test_an_answer_that_is_not_as_the_client_has_it_is_found() -> None:
    with pytest.raises(AssertionError):
        check_types({"object": "fine_tuning.job", "id": 3})
