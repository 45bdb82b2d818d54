"""Parity of GGUF checkpoints: files in the converter's layout give the logits of their weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import PretrainedConfig, PreTrainedModel

from models.decoder import Decoder
from models.families.registry import FAMILIES, MULTIMODAL
from tests.helpers.checkpoints import llama_config, load_folder, load_gguf, mistral_config, random_model
from tests.helpers.gguf_architectures import LAYOUTS, OF_MULTIMODAL, OLD_DEEPSEEK
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.techniques import described
from tests.models.families.all_variants import ALL_VARIANTS
from tests.models.families.deepseek_variants import YARN
from tests.models.families.variants import LONGROPE, llama4, phi3

# Fields that GGUF does not state or its converter does not write, with the values that readers assume.
IMPLIED: dict[str, dict[str, object]] = {
    "afmoe": {"mup_enabled": True, "layer_types": [*["sliding_attention"] * 3, "full_attention"]},
    "bitnet": {"hidden_act": "silu", "tie_word_embeddings": True},
    "cohere2": {"tie_word_embeddings": True, "layer_types": [*["sliding_attention"] * 3, "full_attention"]},
    "cohere2_moe": {"shared_expert_combination_strategy": "average", "prefix_dense_sliding_window_pattern": 1},
    "deepseek_v2": {"rope_parameters": YARN | {"mscale": YARN["mscale_all_dim"]}},
    "deepseek_v3": {"rope_parameters": YARN | {"mscale": YARN["mscale_all_dim"]}, "attention_bias": False},
    "deepseek_v32": {"rope_parameters": YARN | {"mscale": YARN["mscale_all_dim"]}, "attention_bias": False},
    "dots1": {"layer_types": ["full_attention"] * 2},
    "ernie4_5_moe": {"moe_norm_min": 1e-12},
    "falcon": {"alibi": False, "parallel_attn": True, "multi_query": True},
    "falcon_h1": {
        "mamba_norm_before_gate": False,
        "embedding_multiplier": 1.0,
        "lm_head_multiplier": 1.0,
        "mlp_multipliers": [1.0, 1.0],
        "key_multiplier": 1.0,
        "attention_in_multiplier": 1.0,
        "attention_out_multiplier": 1.0,
        "ssm_multipliers": [1.0] * 5,
        "ssm_in_multiplier": 1.0,
        "ssm_out_multiplier": 1.0,
    },
    "falcon_mamba": {"mixer_rms_eps": 1e-5},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {
        "query_pre_attn_scalar": 32,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma3_text": {
        "query_pre_attn_scalar": 32,
        "num_hidden_layers": 6,
        "layer_types": [*["sliding_attention"] * 5, "full_attention"],
    },
    "gemma3n_text": {"vocab_size_per_layer_input": 128, "altup_correct_scale": True},
    "gemma4_unified_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e5, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "granitemoehybrid": {"time_step_limit": (0.0, float("inf"))},
    "gpt2": {"scale_attn_by_inverse_layer_idx": False, "n_inner": None},
    "gpt_bigcode": {"multi_query": True},
    "gpt_neox": {"hidden_act": "gelu"},
    "gpt_oss": {
        "layer_types": ["sliding_attention", "full_attention"],
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    },
    "hunyuan_v1_moe": {"moe_topk": 3},
    "kimi_linear": {"linear_num_heads": 4, "n_group": 1, "topk_group": 1, "norm_topk_prob": True},
    "lfm2": {"conv_bias": False, "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"conv_bias": False, "norm_topk_prob": True, "routed_scaling_factor": 1.0},
    "llama": {"hidden_act": "silu"},
    "llama4_text": {
        "attention_chunk_size": 8192,
        "floor_scale": 8192,
        "no_rope_layers": [1, 1, 1, 0],
        "use_qk_norm": True,
        "attn_temperature_tuning": True,
        "layer_types": [*["chunked_attention"] * 3, "full_attention"],
    },
    "minimax": {
        **{f"{name}_alpha_factor": 1.5 for name in ("full_attn", "linear_attn", "mlp")},
        **{f"{name}_beta_factor": 1.0 for name in ("full_attn", "linear_attn", "mlp")},
    },
    "mistral": {"sliding_window": None},
    "mixtral": {"sliding_window": None},
    "mpt": {"attn_config.softmax_scale": None},
    "olmoe": {"norm_topk_prob": False},
    "phi": {"qk_layernorm": False},
    "phimoe": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "router_jitter_noise": 0.01},
    "qwen2": {"layer_types": ["full_attention"] * 2},
    "qwen2_moe": {"mlp_only_layers": [], "norm_topk_prob": False},
    "qwen3": {"layer_types": ["full_attention"] * 2},
    "qwen3_moe": {"decoder_sparse_step": 1, "norm_topk_prob": True},
    "qwen3_5_text": {"attention_bias": False},
    "qwen3_next": {"mlp_only_layers": [], "norm_topk_prob": True},
    "rwkv7": {"heads_norm_eps": 64e-5, "hidden_act": "sqrelu"},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
    "starcoder2": {"sliding_window": None},
}
PROMPT = torch.randint(128, (40,), generator=torch.Generator().manual_seed(3)).tolist()


def without_what_gguf_omits(config: PretrainedConfig) -> PretrainedConfig:
    for name, value in IMPLIED.get(config.model_type, {}).items():
        section, _, field = name.rpartition(".")
        setattr(getattr(config, section) if section else config, field, value)
    return config


def logits_of(decoder: Decoder) -> torch.Tensor:
    run = PagedRun(decoder)
    return run.step([(PagedSequence(), PROMPT)])[0]


def transformers_logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([PROMPT]), use_cache=False).logits[0]


@pytest.mark.parametrize("variant", [name for name, make in ALL_VARIANTS.items() if make().model_type in LAYOUTS])
def test_gguf_logits_equal_transformers(tmp_path: Path, variant: str) -> None:
    model = random_model(without_what_gguf_omits(ALL_VARIANTS[variant]()))
    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType.F32)

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits(model), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("variant", ["glm4", "qwen2", "qwen3", "qwen3-moe"])
def test_language_model_of_a_multimodal_class(tmp_path: Path, variant: str) -> None:
    model = random_model(without_what_gguf_omits(ALL_VARIANTS[variant]()))
    layout = OF_MULTIMODAL[model.config.model_type]
    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType.F32, layout=layout)

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits(model), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("variant", ["deepseek-v3", "qwen3.5", "qwen3.5-moe"])
def test_blocks_for_multi_token_prediction_are_left_out(tmp_path: Path, variant: str) -> None:
    model = random_model(without_what_gguf_omits(ALL_VARIANTS[variant]()))
    num_layers = model.config.num_hidden_layers

    def add_block(writer: GGUFWriter) -> None:
        writer.add_nextn_predict_layers(1)
        writer.add_block_count(num_layers + 1)
        for name in ("nextn.eh_proj", "attn_q", "attn_norm"):
            writer.add_tensor(f"blk.{num_layers}.{name}.weight", np.ones((2, 2), np.float32))

    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType.F32, adds=add_block)

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits(model), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("variant", ["llama-biases", "mixtral", "qwen3-moe", "glm4", "cohere2", "mimo-v2"])
def test_fused_matrices_are_what_their_parts_are(tmp_path: Path, variant: str) -> None:
    model = random_model(without_what_gguf_omits(ALL_VARIANTS[variant]()))
    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType.F32, fuses=True)

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits(model), rtol=0.0, atol=1e-4)


def test_window_of_a_llama_file_is_that_of_mistral(tmp_path: Path) -> None:
    model = random_model(mistral_config(sliding_window=6))
    write_gguf(
        model, tmp_path / "model.gguf", GGMLQuantizationType.F32, adds=lambda writer: writer.add_sliding_window(6)
    )

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits(model), rtol=0.0, atol=1e-4)


def test_longrope_file_states_how_warm_attention_is(tmp_path: Path) -> None:
    config = phi3(rope_parameters=LONGROPE, original_max_position_embeddings=16)
    write_gguf(random_model(config), tmp_path / "model.gguf", GGMLQuantizationType.F32)

    gguf, folder = load_gguf([tmp_path / "model.gguf"]).spec.layers[0].rope, described(config)[1].layers[0].rope

    assert gguf.scaling.attention_factor == pytest.approx(folder.scaling.attention_factor)
    assert folder.scaling.attention_factor > 1.1


@pytest.mark.parametrize("variant", ["deepseek-v2", "deepseek-v3"])
def test_deepseek_files_may_have_heads_matrices_in_one(tmp_path: Path, variant: str) -> None:
    model = random_model(without_what_gguf_omits(ALL_VARIANTS[variant]()))
    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType.F32, layout=OLD_DEEPSEEK)

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits(model), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"moe_layers": [], "num_local_experts": 0}])
def test_llama4_file_without_chunks_has_positions_in_every_layer(tmp_path: Path, changes: dict[str, object]) -> None:
    model = random_model(llama4(layer_types=["full_attention"] * 4, no_rope_layers=[1] * 4, **changes))
    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType.F32)

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits(model), rtol=0.0, atol=1e-4)


def test_llama4_file_with_128_experts_has_no_norms_of_queries_and_keys(tmp_path: Path) -> None:
    config = without_what_gguf_omits(llama4(num_local_experts=128, intermediate_size=16))
    config.use_qk_norm = False
    model = random_model(config)
    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType.F32)

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits(model), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("variant", ["llama-gqa", "llama3-rope", "qwen2", "gpt2"])
@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0])
def test_gguf_logits_equal_those_of_its_dequantized_weights(
    tmp_path: Path, variant: str, kind: GGMLQuantizationType
) -> None:
    model = random_model(ALL_VARIANTS[variant]())
    write_gguf(model, tmp_path / "model.gguf", kind)  # rounds the model's weights to what the file holds
    model.save_pretrained(tmp_path / "folder")

    logits = logits_of(load_gguf([tmp_path / "model.gguf"]))

    torch.testing.assert_close(logits, transformers_logits(model), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(logits, logits_of(load_folder(tmp_path / "folder")), rtol=0.0, atol=1e-5)


def test_gguf_split_into_parts_equals_the_whole(tmp_path: Path) -> None:
    write_gguf(random_model(llama_config()), tmp_path / "whole.gguf", GGMLQuantizationType.Q8_0)
    write_gguf(random_model(llama_config()), tmp_path / "split.gguf", GGMLQuantizationType.Q8_0, split_max_tensors=8)
    parts = sorted(tmp_path.glob("split-*-of-*.gguf"))

    assert len(parts) == 3
    assert torch.equal(logits_of(load_gguf(parts)), logits_of(load_gguf([tmp_path / "whole.gguf"])))


def test_every_gguf_architecture_has_a_layout() -> None:
    written = {layout.name for layout in (*LAYOUTS.values(), *OF_MULTIMODAL.values())}
    assert {entry.gguf for entry in (*FAMILIES.values(), *MULTIMODAL.values())} - {None} <= written
