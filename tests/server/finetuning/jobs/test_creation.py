"""What is known of a model that is not loaded is checked when a job is made."""

from pathlib import Path
from typing import Any

import openai
import pytest

from engine.config import LoadFormat
from tests.helpers.finetuning import Runner, create, official
from tests.helpers.several import Several, make_several

pytestmark = pytest.mark.fast

LAYERS = ["q_proj", "v_proj"]


@pytest.fixture
def several(tmp_path: Path) -> Several:
    """Two models, none of them loaded; of beta it is known which layers can be trained."""
    made = make_several({"alpha": 1, "beta": 1}, 10, enable_lora=True, data_dir=str(tmp_path))
    made.app.state.context.models.get_or_default("beta").set_expected(["completion"], LAYERS)
    return made


async def _create(several: Several, model: str, names: list[str]) -> Any:
    async with official(several.app, "none", Runner(several.app)) as client:
        settings = {"hyperparameters": {"target_modules": names}}
        return await create(client, model=model, method={"type": "supervised", "supervised": settings})


async def test_layers_that_a_model_does_not_have_are_refused_before_it_is_loaded(several: Several) -> None:
    with pytest.raises(openai.BadRequestError, match=r"has 'qproj'; the layers of this model .* are q_proj, v_proj"):
        await _create(several, "beta", ["qproj"])
    assert several.engines == {}


async def test_layers_are_taken_where_the_model_has_them_or_is_not_known(several: Several) -> None:
    assert (await _create(several, "beta", LAYERS)).model == "beta"
    assert (await _create(several, "alpha", ["qproj"])).model == "alpha"


async def test_random_weights_are_refused(tmp_path: Path) -> None:
    made = make_several({"alpha": 1}, 10, enable_lora=True, data_dir=str(tmp_path), load_format=LoadFormat.DUMMY)
    with pytest.raises(openai.BadRequestError, match=r"'alpha' are random numbers \(--load-format dummy\).*nothing to"):
        await _create(made, "alpha", LAYERS)


async def test_evaluation_files_must_exist_and_are_shown_with_the_steps(several: Several) -> None:
    def steps(*names: str) -> dict[str, Any]:
        settings = {"data_preparation": {"dedup": "exact", "decontaminate_against": [*names]}}
        return {"type": "supervised", "supervised": {"hyperparameters": settings}}

    async with official(several.app, "none", Runner(several.app)) as client:
        with pytest.raises(openai.BadRequestError, match="decontaminate_against is 'file-x'; there is no such file"):
            await create(client, model="beta", method=steps("file-x"))
        file = await client.files.create(file=("eval.jsonl", b"{}"), purpose="fine-tune")
        job = await create(client, model="beta", method=steps(file.id))
    shown = job.method.supervised.hyperparameters.data_preparation
    assert (shown["decontaminate_against"], shown["dedup"]) == ([file.id], "exact")
    assert job.prepared_file is None


async def test_a_judge_must_ask_a_served_model(several: Several) -> None:
    asked = [{"role": "user", "content": "{{sample.output_text}}"}]
    judge = {"type": "score_model", "name": "good", "model": "no", "input": asked}
    settings = {"data_preparation": {"judge": judge, "min_score": 0.5}}
    method = {"type": "supervised", "supervised": {"hyperparameters": settings}}
    async with official(several.app, "none", Runner(several.app)) as client:
        with pytest.raises(openai.BadRequestError, match="judge asks 'no': "):
            await create(client, model="beta", method=method)


async def test_semantic_duplicates_need_a_served_embedding_model(several: Several) -> None:
    def method(**steps: Any) -> dict[str, Any]:
        return {"type": "supervised", "supervised": {"hyperparameters": {"data_preparation": steps}}}

    async with official(several.app, "none", Runner(several.app)) as client:
        with pytest.raises(openai.BadRequestError, match="semantic_model is 'no': "):
            await create(client, model="beta", method=method(dedup="exact", semantic_model="no"))
        with pytest.raises(openai.BadRequestError, match=r"semantic_threshold is 0.9, and no semantic_model is named"):
            await create(client, model="beta", method=method(dedup="exact", semantic_threshold=0.9))
