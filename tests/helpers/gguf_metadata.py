"""Metadata that llama.cpp's converter writes of a configuration, in parts that several architectures share."""

import math
from collections.abc import Callable

import gguf
import numpy as np
from gguf import GGUFWriter
from transformers import PretrainedConfig

from tests.helpers.gguf_layouts import Describe


def _head_dim(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def all_of(first: Describe, *more: Describe) -> Describe:
    def describe(writer: GGUFWriter, config: PretrainedConfig) -> None:
        for add in (first, *more):
            add(writer, config)

    return describe


def rotated(share: float = 1.0) -> Describe:
    def describe(writer: GGUFWriter, config: PretrainedConfig) -> None:
        part = config.rope_parameters.get("partial_rotary_factor", share)
        writer.add_rope_dimension_count(int(_head_dim(config) * part))

    return describe


def rotated_as_if_heads_filled_hidden_size(writer: GGUFWriter, config: PretrainedConfig) -> None:
    share = config.rope_parameters["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(share * config.hidden_size) // config.num_attention_heads)


def llama3_factors(writer: GGUFWriter, config: PretrainedConfig) -> None:
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


def longrope_factors(writer: GGUFWriter, config: PretrainedConfig) -> None:
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


def window(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_sliding_window(config.sliding_window or 0)


def window_pattern(writer: GGUFWriter, config: PretrainedConfig) -> None:
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])


def gemma4(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """What differs by layer, and the pairs of full attention that rotate, as factors."""
    layers = [config.per_layer_config[index] for index in range(config.num_hidden_layers)]
    is_windowed = [kind == "sliding_attention" for kind in config.layer_types]
    full, windowed = layers[is_windowed.index(False)], layers[is_windowed.index(True)]
    window_pattern(writer, config)
    for add, value in (
        (writer.add_key_length, full.head_dim),
        (writer.add_value_length, full.head_dim),
        (writer.add_rope_dimension_count, full.head_dim),
        (writer.add_key_length_swa, windowed.head_dim),
        (writer.add_value_length_swa, windowed.head_dim),
        (writer.add_rope_dimension_count_swa, windowed.head_dim),
        (writer.add_shared_kv_layers, config.num_kv_shared_layers),
        (writer.add_embedding_length_per_layer_input, getattr(config, "hidden_size_per_layer_input", 0)),
    ):
        add(value)
    if full.num_key_value_heads != windowed.num_key_value_heads:
        writer.add_head_count_kv([layer.num_key_value_heads for layer in layers])
    if config.use_double_wide_mlp:
        num_own = config.num_hidden_layers - config.num_kv_shared_layers
        sizes = [config.intermediate_size * (1 if index < num_own else 2) for index in range(len(layers))]
        writer.add_feed_forward_length(sizes)
    if getattr(config, "enable_moe_block", False):
        writer.add_expert_used_count(config.top_k_experts)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    share = config.rope_parameters["full_attention"].get("partial_rotary_factor", 1.0)
    num_pairs, num_others = int(full.head_dim * share / 2), full.head_dim // 2 - int(full.head_dim * share / 2)
    writer.add_tensor("rope_freqs.weight", np.array([1.0] * num_pairs + [1e30] * num_others, dtype=np.float32))


def experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_expert_feed_forward_length(getattr(config, "moe_intermediate_size", config.intermediate_size))


def shared_expert(writer: GGUFWriter, config: PretrainedConfig) -> None:
    size = getattr(config, "shared_expert_intermediate_size", None) or getattr(config, "shared_intermediate_size", 0)
    if size:
        writer.add_expert_shared_feed_forward_length(size)


def one_shared_expert(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Hunyuan's shared expert, and how many experts a row has."""
    writer.add_expert_used_count(config.moe_topk if isinstance(config.moe_topk, int) else max(config.moe_topk))
    writer.add_expert_shared_feed_forward_length(config.intermediate_size)
    writer.add_expert_shared_count(1)


def averaged_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Cohere's experts, whose size is that of a dense layer's MLP elsewhere."""
    writer.add_feed_forward_length(config.prefix_dense_intermediate_size or config.intermediate_size)
    writer.add_leading_dense_block_count(num_dense(config))
    writer.add_expert_weights_norm(config.norm_topk_prob)
    is_sigmoid = config.expert_selection_fn == "sigmoid"
    kinds = gguf.ExpertGatingFuncType
    writer.add_expert_gating_func(kinds.SIGMOID if is_sigmoid else kinds.SOFTMAX)
    if config.num_shared_experts:
        writer.add_expert_shared_count(config.num_shared_experts)
        writer.add_expert_shared_feed_forward_length(config.intermediate_size * config.num_shared_experts)


def scales(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def ministral3(writer: GGUFWriter, config: PretrainedConfig) -> None:
    rope = config.rope_parameters
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])


def caps(writer: GGUFWriter, config: PretrainedConfig) -> None:
    if config.attn_logit_softcapping:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def logit_scale(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_logit_scale(config.logit_scale)
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def deepseek(writer: GGUFWriter, config: PretrainedConfig) -> None:
    is_v3 = config.model_type != "deepseek_v2"
    writer.add_leading_dense_block_count(num_dense(config))
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


def num_dense(config: PretrainedConfig) -> int:
    types = getattr(config, "mlp_layer_types", None)
    return config.first_k_dense_replace if types is None else types.count("dense")


def _sigmoid_routing(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_group_count(config.n_group)
    writer.add_expert_group_used_count(config.topk_group)


def sigmoid_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """What converters write of families that have DeepSeek V3's experts behind another attention."""
    writer.add_leading_dense_block_count(num_dense(config))
    writer.add_expert_shared_count(config.n_shared_experts)
    _sigmoid_routing(writer, config)


def gated_by_sigmoid(writer: GGUFWriter, config: PretrainedConfig) -> None:  # noqa: ARG001
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def mimo2(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Key heads by layer, and the window that released configurations state, without a query's own position."""
    heads = config.num_key_value_heads
    writer.add_head_count_kv([heads * (1 + (kind == "sliding_attention")) for kind in config.layer_types])
    writer.add_sliding_window(config.sliding_window - 1)
    writer.add_value_length(config.v_head_dim)
    share = config.rope_parameters["full_attention"]["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(config.head_dim * share))
    _sigmoid_routing(writer, config)
    if config.attention_value_scale is not None:
        writer.add_float32("mimo2.attention.value_scale", config.attention_value_scale)


def ernie_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_expert_count(config.moe_num_experts)
    writer.add_expert_used_count(config.moe_k)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_shared_count(config.moe_num_shared_experts)
    writer.add_leading_dense_block_count(config.moe_layer_start_index)
    writer.add_interleave_moe_layer_step(config.moe_layer_interval)


def exaone_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_leading_dense_block_count(num_dense(config))
    writer.add_expert_shared_count(config.num_shared_experts)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_group_count(config.n_group)
    writer.add_expert_group_used_count(config.topk_group)


def hy_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """The converter does not write how many layers are dense."""
    writer.add_expert_shared_feed_forward_length(config.num_shared_experts * config.moe_intermediate_size)
    writer.add_expert_weights_norm(True)
    writer.add_expert_weights_scale(config.router_scaling_factor)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def afmoe(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_leading_dense_block_count(config.num_dense_layers)
    writer.add_expert_shared_count(config.num_shared_experts)
    writer.add_expert_weights_scale(config.route_scale)
    writer.add_sliding_window(config.sliding_window)


def alpha(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """Hunyuan's fixed factor of theta, in theta."""
    if alpha := config.rope_parameters.get("alpha"):
        dim = _head_dim(config)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"] * alpha ** (dim / (dim - 2)))
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_scaling_factor(1)


def rope_pattern(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_array("granite_swa.attention.rope_pattern", [theta != 0 for theta in config.layer_rope_theta])


def bound(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """OLMo's and MPT's bound on q, k and v, and the epsilon that OLMo's configuration does not have."""
    limit = getattr(config, "clip_qkv", None) or getattr(getattr(config, "attn_config", None), "clip_qkv", None)
    if limit:
        writer.add_clamp_kqv(limit)
    if config.model_type == "olmo":
        writer.add_layer_norm_eps(1e-5)


def indexer(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_indexer_head_count(config.index_n_heads)
    writer.add_indexer_key_length(config.index_head_dim)
    writer.add_indexer_top_k(config.index_topk)
    if config.model_type == "glm_moe_dsa":
        writer.add_array(f"{writer.arch}.attention.indexer.types", [kind == "full" for kind in config.indexer_types])


def of_latent_rows(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """One key head, as in the cache, whose sizes come beside those of heads."""
    writer.add_head_count_kv(1)
    writer.add_key_length(config.kv_lora_rank + config.qk_rope_head_dim)
    writer.add_value_length(config.kv_lora_rank)
    writer.add_key_length_mla(config.qk_nope_head_dim + config.qk_rope_head_dim)
    writer.add_value_length_mla(config.v_head_dim)


def of_latent_heads(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """What converters wrote until heads' matrices were split."""
    writer.add_key_length(config.qk_nope_head_dim + config.qk_rope_head_dim)
    writer.add_value_length(config.v_head_dim)


def llama4(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_feed_forward_length(config.intermediate_size_mlp)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    writer.add_interleave_moe_layer_step(config.interleave_moe_layer_step)
    if set(config.layer_types) == {"full_attention"}:
        writer.add_sliding_window(0)


def parallel_sublayers(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_parallel_residual(config.use_parallel_residual)


def classic(
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


def alibi(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_max_alibi_bias(config.attn_config.alibi_bias_max)


def gptj_rotation(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_rope_dimension_count(config.rotary_dim)


def axes(writer: GGUFWriter, config: PretrainedConfig) -> None:
    """The rotated pairs for time, height and width, and one more number."""
    num_pairs = int(_head_dim(config) * config.rope_parameters.get("partial_rotary_factor", 1.0)) // 2
    writer.add_rope_dimension_sections([num_pairs - 2, 1, 1, 0])


def deepstack(writer: GGUFWriter, config: PretrainedConfig) -> None:  # noqa: ARG001
    writer.add_num_deepstack_layers(3)
