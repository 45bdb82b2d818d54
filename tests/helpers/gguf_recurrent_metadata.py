"""Metadata that llama.cpp's converter writes of models with recurrent layers."""

import gguf
from gguf import GGUFWriter
from transformers import PretrainedConfig

from tests.helpers.gguf_metadata import num_dense, of_latent_rows


def short_conv(writer: GGUFWriter, config: PretrainedConfig) -> None:
    heads = config.num_key_value_heads
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config.layer_types])
    writer.add_shortconv_l_cache(config.conv_L_cache)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def short_conv_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_leading_dense_block_count(config.num_dense_layers)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def delta(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(config.layer_types.index("full_attention") + 1)


def state_space(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_ssm_conv_kernel(config.mamba_d_conv)
    writer.add_ssm_state_size(config.mamba_d_state)
    writer.add_ssm_group_count(config.mamba_n_groups)
    writer.add_ssm_inner_size(config.mamba_n_heads * config.mamba_d_head)
    writer.add_ssm_time_step_rank(config.mamba_n_heads)


def own_state_space(writer: GGUFWriter, config: PretrainedConfig) -> None:
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


def nemotron_h(writer: GGUFWriter, config: PretrainedConfig) -> None:
    kinds, heads = config.layer_types, config.num_key_value_heads
    size = config.moe_intermediate_size if "moe" in kinds else config.intermediate_size
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in kinds])
    writer.add_feed_forward_length([size if kind in ("mlp", "moe") else 0 for kind in kinds])
    writer.add_rope_scaling_finetuned(False)


def nemotron_h_experts(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_shared_feed_forward_length(config.moe_shared_expert_intermediate_size)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_group_count(config.n_group)
    if config.moe_latent_size:
        writer.add_moe_latent_size(config.moe_latent_size)


def without_attention(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_context_length(2**20)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)


def scan(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_inner_size(config.intermediate_size)
    writer.add_ssm_state_size(config.state_size)
    writer.add_ssm_time_step_rank(config.time_step_rank)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_ssm_dt_b_c_rms(config.model_type == "falcon_mamba")


def jamba(writer: GGUFWriter, config: PretrainedConfig) -> None:
    heads = config.num_key_value_heads
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config.layer_types])
    writer.add_ssm_conv_kernel(config.mamba_d_conv)
    writer.add_ssm_inner_size(config.mamba_expand * config.hidden_size)
    writer.add_ssm_state_size(config.mamba_d_state)
    writer.add_ssm_time_step_rank(config.mamba_dt_rank)


def kimi_linear(writer: GGUFWriter, config: PretrainedConfig) -> None:
    of_latent_rows(writer, config)
    writer.add_head_count_kv([int(kind == "full_attention") for kind in config.layer_types])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_kda_head_dim(config.linear_head_dim)
    writer.add_rope_dimension_count(config.qk_rope_head_dim)
    if config.q_lora_rank:
        writer.add_q_lora_rank(config.q_lora_rank)
    writer.add_kv_lora_rank(config.kv_lora_rank)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_leading_dense_block_count(num_dense(config))
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def granite_hybrid(writer: GGUFWriter, config: PretrainedConfig) -> None:
    heads = config.num_key_value_heads
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config.layer_types])
    writer.add_rope_scaling_finetuned(config.model_type == "bamba" or "linear_attention" not in config.layer_types)
