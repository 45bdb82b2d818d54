"""LAYOUTS: what llama.cpp's converter writes of each model type of transformers."""

import math
from collections.abc import Callable

import gguf
import numpy as np
from gguf import MODEL_ARCH, GGUFWriter
from transformers import PretrainedConfig

from tests.helpers.gguf_layouts import (
    Describe,
    Layout,
    as_they_are,
    delta_heads,
    falcon_groups,
    halves,
    paired_experts,
    pairs,
    rates,
    rates_and_shifted_norms,
    routed,
    scans,
    shifted_norms,
    single_mixers,
    spaces,
    split_experts,
    split_latent_heads,
    squeezed,
    stacked_norms,
    state_spaces,
    sunk_pairs,
    tiled_heads,
    turned,
    turned_experts,
    turned_stacks,
    ungrouped,
    usual,
    with_bare_bias,
    with_expert_bias,
    with_statics,
    xielu_number,
)


def _head_dim(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _with(first: Describe, *more: Describe) -> Describe:
    def describe(writer: GGUFWriter, config: PretrainedConfig) -> None:
        for add in (first, *more):
            add(writer, config)

    return describe


def _rotated(share: float = 1.0) -> Describe:
    def describe(writer: GGUFWriter, config: PretrainedConfig) -> None:
        part = config.rope_parameters.get("partial_rotary_factor", share)
        writer.add_rope_dimension_count(int(_head_dim(config) * part))

    return describe


def _rotated_as_if_heads_filled_hidden_size(writer: GGUFWriter, config: PretrainedConfig) -> None:
    share = config.rope_parameters["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(share * config.hidden_size) // config.num_attention_heads)


def _llama3_factors(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Llama 3's scaling as a tensor: what to divide each frequency by."""
    rope = config.rope_parameters
    if rope["rope_type"] != "llama3":
        return
    dim = _head_dim(config)
    frequencies = rope["rope_theta"] ** -(np.arange(0, dim, 2, dtype=np.float32) / dim)
    factors = []
    for length in 2 * np.pi / frequencies:
        turns = rope["original_max_position_embeddings"] / length
        if turns > rope["high_freq_factor"]:
            factors.append(1.0)
        elif turns < rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            factors.append(1.0 / ((1.0 - smooth) / rope["factor"] + smooth))
    writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))


def _longrope_factors(writer: GGUFWriter, config: PretrainedConfig) -> None:
    rope = config.rope_parameters
    original = rope.get("original_max_position_embeddings") or config.original_max_position_embeddings
    writer.add_rope_scaling_orig_ctx_len(original)
    if rope["rope_type"] != "longrope":
        return
    scale = config.max_position_embeddings / original
    warmth = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1.0 else 1.0
    writer.add_rope_scaling_attn_factors(warmth)
    for name in ("long", "short"):
        writer.add_tensor(f"rope_factors_{name}.weight", np.array(rope[f"{name}_factor"], dtype=np.float32))


def _window(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_sliding_window(config.sliding_window or 0)


def _window_pattern(writer: GGUFWriter, config: PretrainedConfig) -> None:
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])


def _experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_expert_feed_forward_length(getattr(config, "moe_intermediate_size", config.intermediate_size))


def _shared_expert(writer: GGUFWriter, config: PretrainedConfig) -> None:
    size = getattr(config, "shared_expert_intermediate_size", None) or getattr(config, "shared_intermediate_size", 0)
    if size:
        writer.add_expert_shared_feed_forward_length(size)


def _scales(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def _ministral3(writer: GGUFWriter, config: PretrainedConfig) -> None:
    rope = config.rope_parameters
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])


def _caps(writer: GGUFWriter, config: PretrainedConfig) -> None:
    if config.attn_logit_softcapping:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _logit_scale(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_logit_scale(config.logit_scale)
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def _deepseek(writer: GGUFWriter, config: PretrainedConfig) -> None:
    is_v3 = config.model_type != "deepseek_v2"
    writer.add_leading_dense_block_count(_num_dense(config))
    writer.add_rope_dimension_count(config.qk_rope_head_dim)
    if weight := config.rope_parameters.get("mscale_all_dim"):
        writer.add_rope_scaling_yarn_log_mul(0.1 * weight)
    if config.q_lora_rank:
        writer.add_q_lora_rank(config.q_lora_rank)
    writer.add_kv_lora_rank(config.kv_lora_rank)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if is_v3 else gguf.ExpertGatingFuncType.SOFTMAX)
    if is_v3 and config.norm_topk_prob:
        writer.add_expert_weights_norm(True)
    if config.n_group:
        writer.add_expert_group_count(config.n_group)
        writer.add_expert_group_used_count(config.topk_group)


def _num_dense(config: PretrainedConfig) -> int:
    types = getattr(config, "mlp_layer_types", None)
    return config.first_k_dense_replace if types is None else types.count("dense")


def _sigmoid_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """What converters write of families that have DeepSeek V3's experts behind another attention."""
    writer.add_leading_dense_block_count(_num_dense(config))
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_group_count(config.n_group)
    writer.add_expert_group_used_count(config.topk_group)


def _gated_by_sigmoid(writer: GGUFWriter, config: PretrainedConfig) -> None:  # noqa: ARG001
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _ernie_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_expert_count(config.moe_num_experts)
    writer.add_expert_used_count(config.moe_k)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_shared_count(config.moe_num_shared_experts)
    writer.add_leading_dense_block_count(config.moe_layer_start_index)
    writer.add_interleave_moe_layer_step(config.moe_layer_interval)


def _exaone_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_leading_dense_block_count(_num_dense(config))
    writer.add_expert_shared_count(config.num_shared_experts)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_group_count(config.n_group)
    writer.add_expert_group_used_count(config.topk_group)


def _hy_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """The converter does not write how many layers are dense."""
    writer.add_expert_shared_feed_forward_length(config.num_shared_experts * config.moe_intermediate_size)
    writer.add_expert_weights_norm(True)
    writer.add_expert_weights_scale(config.router_scaling_factor)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _afmoe(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_leading_dense_block_count(config.num_dense_layers)
    writer.add_expert_shared_count(config.num_shared_experts)
    writer.add_expert_weights_scale(config.route_scale)
    writer.add_sliding_window(config.sliding_window)


def _alpha(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Hunyuan's fixed factor of theta, in theta."""
    if alpha := config.rope_parameters.get("alpha"):
        dim = _head_dim(config)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"] * alpha ** (dim / (dim - 2)))
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_scaling_factor(1)


def _rope_pattern(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_array("granite_swa.attention.rope_pattern", [theta != 0 for theta in config.layer_rope_theta])


def _bound(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """OLMo's and MPT's bound on q, k and v, and the epsilon that OLMo's configuration does not have."""
    limit = getattr(config, "clip_qkv", None) or getattr(getattr(config, "attn_config", None), "clip_qkv", None)
    if limit:
        writer.add_clamp_kqv(limit)
    if config.model_type == "olmo":
        writer.add_layer_norm_eps(1e-5)


def _of_latent_rows(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """One key head, as in the cache, whose sizes come beside those of heads."""
    writer.add_head_count_kv(1)
    writer.add_key_length(config.kv_lora_rank + config.qk_rope_head_dim)
    writer.add_value_length(config.kv_lora_rank)
    writer.add_key_length_mla(config.qk_nope_head_dim + config.qk_rope_head_dim)
    writer.add_value_length_mla(config.v_head_dim)


def _of_latent_heads(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """What converters wrote until heads' matrices were split."""
    writer.add_key_length(config.qk_nope_head_dim + config.qk_rope_head_dim)
    writer.add_value_length(config.v_head_dim)


def _llama4(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_feed_forward_length(config.intermediate_size_mlp)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    writer.add_interleave_moe_layer_step(config.interleave_moe_layer_step)
    if set(config.layer_types) == {"full_attention"}:
        writer.add_sliding_window(0)


def _parallel(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_parallel_residual(config.use_parallel_residual)


def _classic(
    positions: Callable[[PretrainedConfig], int],
    kv_heads: Callable[[PretrainedConfig], int | None],
    inner: Callable[[PretrainedConfig], int] = lambda config: 4 * config.hidden_size,
) -> Describe:
    """Of models before Llama, whose configurations each name their sizes in their own way."""

    def describe(writer: GGUFWriter, config: PretrainedConfig) -> None:
        writer.add_context_length(positions(config))
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(inner(config))
        writer.add_head_count(config.num_attention_heads)
        if (count := kv_heads(config)) is not None:
            writer.add_head_count_kv(count)
        eps = getattr(config, "layer_norm_epsilon", None) or getattr(config, "layer_norm_eps", None)
        writer.add_layer_norm_eps(eps)

    return describe


def _alibi(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_max_alibi_bias(config.attn_config.alibi_bias_max)


def _gptj_rotation(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_rope_dimension_count(config.rotary_dim)


def _short_conv(writer: GGUFWriter, config: PretrainedConfig) -> None:
    heads = config.num_key_value_heads
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config.layer_types])
    writer.add_shortconv_l_cache(config.conv_L_cache)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _short_conv_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_leading_dense_block_count(config.num_dense_layers)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _delta(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(config.layer_types.index("full_attention") + 1)


def _axes(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """The rotated pairs for time, height and width, and one more number."""
    num_pairs = int(_head_dim(config) * config.rope_parameters.get("partial_rotary_factor", 1.0)) // 2
    writer.add_rope_dimension_sections([num_pairs - 2, 1, 1, 0])


def _deepstack(writer: GGUFWriter, config: PretrainedConfig) -> None:  # noqa: ARG001
    writer.add_num_deepstack_layers(3)


def _state_space(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_ssm_conv_kernel(config.mamba_d_conv)
    writer.add_ssm_state_size(config.mamba_d_state)
    writer.add_ssm_group_count(config.mamba_n_groups)
    writer.add_ssm_inner_size(config.mamba_n_heads * config.mamba_d_head)
    writer.add_ssm_time_step_rank(config.mamba_n_heads)


def _own_state_space(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Of families that name the sizes of state spaces in their own way."""
    is_plain = config.model_type == "mamba2"
    heads, head_dim = (
        (config.num_heads, config.head_dim) if is_plain else (config.mamba_num_heads, config.mamba_head_dim)
    )
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_state_size(config.state_size if is_plain else config.ssm_state_size)
    writer.add_ssm_group_count(config.n_groups)
    writer.add_ssm_inner_size(heads * head_dim)
    writer.add_ssm_time_step_rank(heads)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)


def _nemotron_h(writer: GGUFWriter, config: PretrainedConfig) -> None:
    kinds, heads = config.layer_types, config.num_key_value_heads
    size = config.moe_intermediate_size if "moe" in kinds else config.intermediate_size
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in kinds])
    writer.add_feed_forward_length([size if kind in ("mlp", "moe") else 0 for kind in kinds])
    writer.add_rope_scaling_finetuned(False)


def _nemotron_h_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_shared_feed_forward_length(config.moe_shared_expert_intermediate_size)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_group_count(config.n_group)


def _without_attention(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_context_length(2**20)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)


def _scan(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_inner_size(config.intermediate_size)
    writer.add_ssm_state_size(config.state_size)
    writer.add_ssm_time_step_rank(config.time_step_rank)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_ssm_dt_b_c_rms(config.model_type == "falcon_mamba")


def _jamba(writer: GGUFWriter, config: PretrainedConfig) -> None:
    heads = config.num_key_value_heads
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config.layer_types])
    writer.add_ssm_conv_kernel(config.mamba_d_conv)
    writer.add_ssm_inner_size(config.mamba_expand * config.hidden_size)
    writer.add_ssm_state_size(config.mamba_d_state)
    writer.add_ssm_time_step_rank(config.mamba_dt_rank)


def _granite_hybrid(writer: GGUFWriter, config: PretrainedConfig) -> None:
    heads = config.num_key_value_heads
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config.layer_types])
    writer.add_rope_scaling_finetuned(config.model_type == "bamba" or "linear_attention" not in config.layer_types)


_llama = _with(usual, _rotated(), _llama3_factors)
_gptj = _classic(lambda config: config.n_positions, lambda _: None, lambda config: config.n_inner or 256)
_of_positions = _classic(lambda config: config.n_positions, lambda _: None)

LAYOUTS: dict[str, Layout] = {
    "afmoe": Layout(MODEL_ARCH.AFMOE, with_expert_bias, _with(usual, _experts, _afmoe)),
    "apertus": Layout(MODEL_ARCH.APERTUS, as_they_are, _with(usual, _llama3_factors), in_metadata=xielu_number),
    "arcee": Layout(MODEL_ARCH.ARCEE, pairs, _llama),
    "bamba": Layout(
        MODEL_ARCH.GRANITE_HYBRID, state_spaces, _with(usual, _rotated(), _state_space, _granite_hybrid), rates
    ),
    "bloom": Layout(MODEL_ARCH.BLOOM, ungrouped, _classic(lambda _: 2048, lambda config: config.n_head)),
    "cohere": Layout(MODEL_ARCH.COMMAND_R, as_they_are, _with(usual, _logit_scale)),
    "cohere2": Layout(MODEL_ARCH.COHERE2, as_they_are, _with(usual, _logit_scale, _window, _rotated())),
    "deepseek_v2": Layout(MODEL_ARCH.DEEPSEEK2, split_latent_heads, _with(usual, _experts, _deepseek, _of_latent_rows)),
    "deepseek_v3": Layout(MODEL_ARCH.DEEPSEEK2, split_latent_heads, _with(usual, _experts, _deepseek, _of_latent_rows)),
    "dots1": Layout(MODEL_ARCH.DOTS1, routed, _with(usual, _experts, _sigmoid_experts)),
    "ernie4_5": Layout(MODEL_ARCH.ERNIE4_5, as_they_are, usual),
    "ernie4_5_moe": Layout(MODEL_ARCH.ERNIE4_5_MOE, with_statics, _with(usual, _ernie_experts)),
    "exaone4": Layout(MODEL_ARCH.EXAONE4, as_they_are, _with(usual, _window_pattern, _llama3_factors)),
    "exaone_moe": Layout(
        MODEL_ARCH.EXAONE_MOE, routed, _with(usual, _window_pattern, _llama3_factors, _experts, _exaone_experts)
    ),
    "falcon": Layout(MODEL_ARCH.FALCON, ungrouped, _classic(lambda _: 2048, falcon_groups)),
    "falcon_h1": Layout(MODEL_ARCH.FALCON_H1, spaces, _with(usual, _state_space), rates),
    "falcon_mamba": Layout(MODEL_ARCH.MAMBA, scans, _with(_without_attention, _scan), rates),
    "gemma": Layout(MODEL_ARCH.GEMMA, as_they_are, usual, finish=shifted_norms),
    "gemma2": Layout(MODEL_ARCH.GEMMA2, as_they_are, _with(usual, _caps, _window), finish=shifted_norms),
    "gemma3_text": Layout(MODEL_ARCH.GEMMA3, as_they_are, _with(usual, _caps, _window), finish=shifted_norms),
    "glm": Layout(MODEL_ARCH.CHATGLM, as_they_are, _with(usual, _rotated(0.5))),
    "glm4": Layout(MODEL_ARCH.GLM4, as_they_are, _with(usual, _rotated(0.5))),
    "glm4_moe": Layout(MODEL_ARCH.GLM4_MOE, routed, _with(usual, _rotated(0.5), _experts, _sigmoid_experts)),
    "glm4_moe_lite": Layout(
        MODEL_ARCH.DEEPSEEK2, split_latent_heads, _with(usual, _experts, _deepseek, _of_latent_rows)
    ),
    "gpt2": Layout(MODEL_ARCH.GPT2, turned, _of_positions),
    "gpt_bigcode": Layout(MODEL_ARCH.STARCODER, as_they_are, _classic(lambda config: config.n_positions, lambda _: 1)),
    "gptj": Layout(MODEL_ARCH.GPTJ, as_they_are, _with(_gptj, _gptj_rotation)),
    "gpt_neox": Layout(MODEL_ARCH.GPTNEOX, ungrouped, _with(usual, _rotated(0.25), _parallel)),
    "gpt_oss": Layout(MODEL_ARCH.GPT_OSS, turned_experts, _with(usual, _window, _experts)),
    "granite": Layout(MODEL_ARCH.GRANITE, pairs, _with(usual, _rotated(), _scales)),
    "granitemoe": Layout(MODEL_ARCH.GRANITE_MOE, paired_experts, _with(usual, _rotated(), _scales)),
    "granitemoehybrid": Layout(
        MODEL_ARCH.GRANITE_HYBRID,
        state_spaces,
        _with(usual, _rotated(), _scales, _shared_expert, _state_space, _granite_hybrid),
        rates,
    ),
    "granitemoeshared": Layout(
        MODEL_ARCH.GRANITE_MOE, paired_experts, _with(usual, _rotated(), _scales, _shared_expert)
    ),
    "granite_swa": Layout(
        MODEL_ARCH.GRANITE, sunk_pairs, _with(usual, _scales, _window_pattern, _rope_pattern), own_name="granite_swa"
    ),
    "hunyuan_v1_dense": Layout(MODEL_ARCH.HUNYUAN_DENSE, as_they_are, _with(usual, _alpha)),
    "hy_v3": Layout(MODEL_ARCH.EXAONE_MOE, with_bare_bias, _with(usual, _experts, _hy_experts), own_name="hy_v3"),
    "jamba": Layout(MODEL_ARCH.JAMBA, scans, _with(usual, _jamba), rates),
    "lfm2": Layout(MODEL_ARCH.LFM2, squeezed, _with(usual, _short_conv)),
    "lfm2_moe": Layout(MODEL_ARCH.LFM2MOE, squeezed, _with(usual, _short_conv, _experts, _short_conv_experts)),
    "llama": Layout(MODEL_ARCH.LLAMA, pairs, _llama),
    "llama4_text": Layout(MODEL_ARCH.LLAMA4, turned_stacks, _with(_llama, _llama4)),
    "minimax_m2": Layout(MODEL_ARCH.MINIMAXM2, routed, _with(usual, _rotated(), _experts, _gated_by_sigmoid)),
    "mamba": Layout(MODEL_ARCH.MAMBA, scans, _with(_without_attention, _scan), rates),
    "mamba2": Layout(MODEL_ARCH.MAMBA2, spaces, _with(_without_attention, _own_state_space), rates),
    "ministral3": Layout(MODEL_ARCH.MISTRAL3, pairs, _with(_llama, _ministral3)),
    "mistral": Layout(MODEL_ARCH.LLAMA, pairs, _llama),
    "mixtral": Layout(MODEL_ARCH.LLAMA, paired_experts, _llama),
    "mpt": Layout(
        MODEL_ARCH.MPT, as_they_are, _with(_classic(lambda config: config.max_seq_len, lambda _: None), _alibi, _bound)
    ),
    "nemotron": Layout(
        MODEL_ARCH.NEMOTRON, as_they_are, _with(usual, _rotated_as_if_heads_filled_hidden_size), finish=shifted_norms
    ),
    "nemotron_h": Layout(MODEL_ARCH.NEMOTRON_H, single_mixers, _with(usual, _own_state_space, _nemotron_h), rates),
    "nemotron_h_moe": Layout(
        MODEL_ARCH.NEMOTRON_H_MOE,
        single_mixers,
        _with(usual, _own_state_space, _nemotron_h, _nemotron_h_experts),
        rates,
    ),
    "olmo": Layout(MODEL_ARCH.OLMO, pairs, _with(usual, _bound)),
    "olmo2": Layout(MODEL_ARCH.OLMO2, as_they_are, usual),
    "olmo3": Layout(MODEL_ARCH.OLMO2, as_they_are, _with(usual, _window_pattern)),
    "olmoe": Layout(MODEL_ARCH.OLMOE, split_experts, usual),
    "phi": Layout(MODEL_ARCH.PHI2, as_they_are, _with(usual, _rotated(0.5))),
    "phi3": Layout(MODEL_ARCH.PHI3, as_they_are, _with(usual, _rotated(), _window, _longrope_factors)),
    "phimoe": Layout(MODEL_ARCH.PHIMOE, split_experts, _with(usual, _rotated(), _window)),
    "qwen2": Layout(MODEL_ARCH.QWEN2, as_they_are, usual),
    "qwen2_moe": Layout(MODEL_ARCH.QWEN2MOE, split_experts, _with(usual, _experts, _shared_expert)),
    "qwen3_5_text": Layout(
        MODEL_ARCH.QWEN35, tiled_heads, _with(usual, _rotated(0.25), _delta), rates_and_shifted_norms
    ),
    "qwen3_5_moe_text": Layout(
        MODEL_ARCH.QWEN35MOE,
        tiled_heads,
        _with(usual, _rotated(0.25), _delta, _experts, _shared_expert),
        rates_and_shifted_norms,
    ),
    "qwen3_next": Layout(
        MODEL_ARCH.QWEN3NEXT,
        delta_heads,
        _with(usual, _rotated(0.25), _delta, _experts, _shared_expert),
        rates_and_shifted_norms,
    ),
    "qwen3": Layout(MODEL_ARCH.QWEN3, as_they_are, usual),
    "qwen3_moe": Layout(MODEL_ARCH.QWEN3MOE, split_experts, _with(usual, _experts)),
    "seed_oss": Layout(MODEL_ARCH.SEED_OSS, as_they_are, usual),
    "smollm3": Layout(MODEL_ARCH.SMOLLM3, pairs, _llama),
    "stablelm": Layout(MODEL_ARCH.STABLELM, stacked_norms, _with(usual, _rotated(0.25), _parallel)),
    "starcoder2": Layout(MODEL_ARCH.STARCODER2, as_they_are, usual),
}

# Language models of multimodal classes, by the type of the same model by itself.
OF_MULTIMODAL = {
    "glm4": Layout(MODEL_ARCH.GLM4, halves, _with(usual, _rotated(0.5), _axes)),
    "qwen2": Layout(MODEL_ARCH.QWEN2VL, as_they_are, _with(usual, _axes)),
    "qwen3": Layout(MODEL_ARCH.QWEN3VL, as_they_are, _with(usual, _axes, _deepstack)),
    "qwen3_moe": Layout(MODEL_ARCH.QWEN3VLMOE, split_experts, _with(usual, _experts, _axes, _deepstack)),
}

# DeepSeek's files of before heads' matrices were split.
OLD_DEEPSEEK = Layout(MODEL_ARCH.DEEPSEEK2, routed, _with(usual, _experts, _deepseek, _of_latent_heads))
