"""Configurations whose experts no row could be sent to are refused before weights are read: kernels trust them."""

import json
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType
from transformers import PretrainedConfig, Qwen3MoeConfig

from models.errors import CheckpointError, UnsupportedModelError
from models.loading.open import check_config
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import SMALL, load_gguf, random_model
from tests.helpers.gguf_writer import write_gguf
from tests.models.families.cohere2_moe_variants import COHERE2_MOE_VARIANTS
from tests.models.families.deepseek_variants import LATENT_VARIANTS
from tests.models.families.hunyuan_variants import HUNYUAN_VARIANTS


def folder_of(config: PretrainedConfig, architecture: str, folder: Path, **changes: int) -> Path:
    fields = {**config.to_dict(), "architectures": [architecture], **changes}
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"topk_group": 4096}, "4096 of 2 groups cannot be chosen from 8 experts"),
        ({"n_group": 3}, "of 3 groups cannot be chosen from 8 experts"),
        ({"n_group": 8}, "groups are rated by two experts, and 8 groups of 8 have one each"),
        ({"topk_group": 1, "num_experts_per_tok": 5}, "5 experts a token are more than 4"),
    ],
)
def test_groups_that_contradict_the_experts_are_refused(tmp_path: Path, changes: dict[str, int], reason: str) -> None:
    config = LATENT_VARIANTS["deepseek-v3"]()
    folder = folder_of(config, "DeepseekV3ForCausalLM", tmp_path, **{"n_routed_experts": 8, "n_group": 2, **changes})
    with pytest.raises(CheckpointError, match=reason):
        check_config(ModelFiles(folder, (), "m"), {})


def test_more_experts_a_token_than_there_are_are_refused(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(**SMALL)
    folder = folder_of(config, "Qwen3MoeForCausalLM", tmp_path, num_experts=4, num_experts_per_tok=9)
    with pytest.raises(CheckpointError, match="9 experts a token are more than 4"):
        check_config(ModelFiles(folder, (), "m"), {})


@pytest.mark.parametrize(
    "changes",
    [{"expert_selection_fn": "topk"}, {"shared_expert_combination_strategy": "maximum"}],
    ids=lambda c: next(iter(c)),
)
def test_cohere_experts_that_are_mixed_in_another_way_are_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    fields = {**COHERE2_MOE_VARIANTS["cohere2-moe"]().to_dict(), "architectures": ["Cohere2MoeForCausalLM"], **changes}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UnsupportedModelError, match="supported are 'softmax' and 'sigmoid' with 'average' and 'sum'"):
        check_config(ModelFiles(tmp_path, (), "m"), {})


def test_hunyuan_file_whose_experts_have_a_size_of_their_own_is_refused(tmp_path: Path) -> None:
    model, path = random_model(HUNYUAN_VARIANTS["hunyuan-moe"]()), tmp_path / "model.gguf"
    write_gguf(
        model, path, GGMLQuantizationType.F32, adds=lambda writer: writer.add_expert_shared_feed_forward_length(64)
    )
    with pytest.raises(CheckpointError, match="shared ones of 64 are not one each of 96"):
        load_gguf([path])
