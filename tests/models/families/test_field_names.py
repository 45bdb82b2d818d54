"""Refusals of a configuration name the fields that are in the file, and say what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BertConfig,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
)

from models.errors import ModelError
from models.loading.open import check_config
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import SMALL
from tests.models.families.deepseek_variants import LATENT_VARIANTS
from tests.models.families.gemma4_variants import gemma4
from tests.models.families.kimi_linear_variants import kimi_linear
from tests.models.families.state_space_variants import granite_hybrid, nemotron_h

_FETCH = "fetch the checkpoint's own configuration again"
_WINDOWED = ["sliding_attention", "full_attention"]


def _refusal(config: PretrainedConfig, architecture: str, folder: Path, changes: dict[str, Any]) -> str:
    """The message about config.json with `changes`, without the file's name. "left out" removes a field."""
    fields = {**config.to_dict(), "architectures": [architecture], **changes}
    fields = {name: value for name, value in fields.items() if value != "left out"}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError) as caught:
        check_config(ModelFiles(folder, (), "m"), {})
    return str(caught.value).removeprefix(f"{folder / 'config.json'}: ")


@pytest.mark.parametrize(
    ("config", "architecture", "changes", "message"),
    [
        (
            LlamaConfig(**SMALL),
            "LlamaForCausalLM",
            {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": "left out"},
            f"hidden_size 64 is not a multiple of num_attention_heads 5; state head_dim, or {_FETCH}",
        ),
        (
            GPTNeoXConfig(hidden_size=64, num_attention_heads=4),
            "GPTNeoXForCausalLM",
            {"num_attention_heads": 5},
            f"hidden_size 64 is not a multiple of num_attention_heads 5; state head_dim, or {_FETCH}",
        ),
        (GPT2Config(), "GPT2LMHeadModel", {"n_head": 5}, f"n_embd 768 is not a multiple of n_head 5; {_FETCH}"),
        (BloomConfig(), "BloomForCausalLM", {"n_head": 5}, f"hidden_size 64 is not a multiple of n_head 5; {_FETCH}"),
        (MptConfig(), "MptForCausalLM", {"n_heads": 5}, f"d_model 2048 is not a multiple of n_heads 5; {_FETCH}"),
        *(
            (
                config,
                architecture,
                {"hidden_size": 64, "word_embed_proj_dim": 64, "num_attention_heads": 5},
                f"hidden_size 64 is not a multiple of num_attention_heads 5; {_FETCH}",
            )
            for config, architecture in [
                (FalconConfig(), "FalconForCausalLM"),
                (OPTConfig(), "OPTForCausalLM"),
                (BertConfig(), "BertModel"),
            ]
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value[0].isupper() else "",
)
def test_heads_that_do_not_divide_the_hidden_size_are_named(
    config: PretrainedConfig, architecture: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    assert _refusal(config, architecture, tmp_path, changes) == message


@pytest.mark.parametrize(
    ("config", "architecture", "changes", "message"),
    [
        (LlamaConfig(**SMALL), "LlamaForCausalLM", {"head_dim": 7}, "the head size 7 is odd, and rotary positions"),
        (
            GPTNeoXConfig(hidden_size=64, num_attention_heads=4),
            "GPTNeoXForCausalLM",
            {"rotary_pct": 0.1, "partial_rotary_factor": "left out", "rope_parameters": "left out"},
            "rotary_pct 0.1 of head size 16 rotates 1 dimensions",
        ),
        (
            gemma4(),
            "Gemma4ForCausalLM",
            {"hidden_activation": "squirrel"},
            "hidden_activation is 'squirrel'; ",
        ),
        (
            gemma4(layer_types=_WINDOWED * 2, num_hidden_layers=4),
            "Gemma4ForCausalLM",
            {"sliding_window": None},
            "sliding_window is null, and layers of the type sliding_attention need one; ",
        ),
        (
            kimi_linear(),
            "KimiLinearForCausalLM",
            {"qk_rope_head_dim": 7},
            f"qk_rope_head_dim is 7; it must be even; {_FETCH}",
        ),
    ],
    ids=["head", "share", "activation", "window", "rotary-part"],
)
def test_a_refusal_begins_with_the_field(
    config: PretrainedConfig, architecture: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    found = _refusal(config, architecture, tmp_path, changes)
    assert found.startswith(message)


@pytest.mark.parametrize(
    ("config", "architecture", "changes", "reason", "fields"),
    [
        (
            kimi_linear(),
            "KimiLinearForCausalLM",
            {"num_experts": 4, "num_experts_per_token": 9, "num_expert_group": 1, "topk_group": 1},
            "9 experts a token are more than 4",
            {"num_experts 4", "num_experts_per_token 9", "num_expert_group 1", "topk_group 1"},
        ),
        (
            LATENT_VARIANTS["deepseek-v3"](),
            "DeepseekV3ForCausalLM",
            {"n_routed_experts": 4, "n_group": 3, "topk_group": 1, "num_experts_per_tok": 1},
            "1 of 3 groups cannot be chosen from 4 experts",
            {"n_routed_experts 4", "n_group 3", "topk_group 1", "num_experts_per_tok 1"},
        ),
        (
            Qwen3MoeConfig(**SMALL),
            "Qwen3MoeForCausalLM",
            {"num_experts": 4, "num_experts_per_tok": 9},
            "9 experts a token are more than 4",
            {"num_experts 4", "num_experts_per_tok 9"},
        ),
        (
            granite_hybrid(),
            "GraniteMoeHybridForCausalLM",
            {"mamba_n_groups": 3},
            "3 groups do not divide 4 state space heads",
            {"mamba_n_heads 4", "mamba_n_groups 3"},
        ),
        (
            nemotron_h(),
            "NemotronHForCausalLM",
            {"n_groups": 3},
            "3 groups do not divide 4 state space heads",
            {"mamba_num_heads 4", "n_groups 3"},
        ),
    ],
    ids=["kimi", "deepseek", "qwen", "granite", "nemotron"],
)
def test_numbers_that_contradict_each_other_are_named_as_in_the_file(
    config: PretrainedConfig,
    architecture: str,
    changes: dict[str, int],
    reason: str,
    fields: set[str],
    tmp_path: Path,
) -> None:
    found = _refusal(config, architecture, tmp_path, changes)
    head, _, rest = found.partition(" (")
    named, _, remedy = rest.partition("); ")
    assert (head, set(named.split(", ")), remedy) == (reason, fields, _FETCH)
