"""LAYOUTS: what llama.cpp's converter writes of each model type of transformers."""

from gguf import MODEL_ARCH

from tests.helpers.gguf_gemma3n import gemma3n, stacked_streams
from tests.helpers.gguf_layouts import (
    Layout,
    as_they_are,
    channel_decays,
    delta_heads,
    falcon_groups,
    halves,
    inner_norms,
    paired_experts,
    pairs,
    rates,
    rates_and_shifted_norms,
    routed,
    scaled_layers,
    scans,
    shifted_norms,
    single_mixers,
    spaces,
    split_experts,
    split_latent_heads,
    squeezed,
    stacked_norms,
    state_spaces,
    sunk_experts,
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
from tests.helpers.gguf_lightning import lightning, one_residual_scale
from tests.helpers.gguf_metadata import (
    afmoe,
    alibi,
    all_of,
    alpha,
    averaged_experts,
    axes,
    bound,
    caps,
    classic,
    deepseek,
    deepstack,
    ernie_experts,
    exaone_experts,
    experts,
    gated_by_sigmoid,
    gemma4,
    gptj_rotation,
    hy_experts,
    indexer,
    llama3_factors,
    llama4,
    logit_scale,
    longrope_factors,
    mimo2,
    ministral3,
    of_latent_heads,
    of_latent_rows,
    one_shared_expert,
    parallel_sublayers,
    rope_pattern,
    rotated,
    rotated_as_if_heads_filled_hidden_size,
    scales,
    shared_expert,
    sigmoid_experts,
    window,
    window_pattern,
)
from tests.helpers.gguf_recurrent_metadata import (
    delta,
    granite_hybrid,
    jamba,
    kimi_linear,
    nemotron_h,
    nemotron_h_experts,
    own_state_space,
    scan,
    short_conv,
    short_conv_experts,
    state_space,
    without_attention,
)
from tests.helpers.gguf_rwkv import mixed_rows, rwkv7

_llama = all_of(usual, rotated(), llama3_factors)
_gptj = classic(lambda config: config.n_positions, lambda _: None, lambda config: config.n_inner or 256)
_of_positions = classic(lambda config: config.n_positions, lambda _: None)
_indexed = all_of(usual, experts, deepseek, of_latent_rows, indexer)

LAYOUTS: dict[str, Layout] = {
    "afmoe": Layout(MODEL_ARCH.AFMOE, with_expert_bias, all_of(usual, experts, afmoe)),
    "apertus": Layout(MODEL_ARCH.APERTUS, as_they_are, all_of(usual, llama3_factors), in_metadata=xielu_number),
    "arcee": Layout(MODEL_ARCH.ARCEE, pairs, _llama),
    "bamba": Layout(
        MODEL_ARCH.GRANITE_HYBRID, state_spaces, all_of(usual, rotated(), state_space, granite_hybrid), rates
    ),
    "bitnet": Layout(MODEL_ARCH.BITNET, inner_norms, usual),
    "bloom": Layout(MODEL_ARCH.BLOOM, ungrouped, classic(lambda _: 2048, lambda config: config.n_head)),
    "cohere": Layout(MODEL_ARCH.COMMAND_R, as_they_are, all_of(usual, logit_scale)),
    "cohere2": Layout(MODEL_ARCH.COHERE2, as_they_are, all_of(usual, logit_scale, window, rotated())),
    "cohere2_moe": Layout(
        MODEL_ARCH.DOTS1,
        split_experts,
        all_of(usual, logit_scale, window_pattern, rotated(), experts, averaged_experts),
        own_name="cohere2moe",
    ),
    "deepseek_v2": Layout(MODEL_ARCH.DEEPSEEK2, split_latent_heads, all_of(usual, experts, deepseek, of_latent_rows)),
    "deepseek_v3": Layout(MODEL_ARCH.DEEPSEEK2, split_latent_heads, all_of(usual, experts, deepseek, of_latent_rows)),
    "deepseek_v32": Layout(MODEL_ARCH.GLM_DSA, split_latent_heads, _indexed, own_name="deepseek32"),
    "dots1": Layout(MODEL_ARCH.DOTS1, routed, all_of(usual, experts, sigmoid_experts)),
    "ernie4_5": Layout(MODEL_ARCH.ERNIE4_5, as_they_are, usual),
    "ernie4_5_moe": Layout(MODEL_ARCH.ERNIE4_5_MOE, with_statics, all_of(usual, ernie_experts)),
    "exaone4": Layout(MODEL_ARCH.EXAONE4, as_they_are, all_of(usual, window_pattern, llama3_factors)),
    "exaone_moe": Layout(
        MODEL_ARCH.EXAONE_MOE, routed, all_of(usual, window_pattern, llama3_factors, experts, exaone_experts)
    ),
    "falcon": Layout(MODEL_ARCH.FALCON, ungrouped, classic(lambda _: 2048, falcon_groups)),
    "falcon_h1": Layout(MODEL_ARCH.FALCON_H1, spaces, all_of(usual, state_space), rates),
    "falcon_mamba": Layout(MODEL_ARCH.MAMBA, scans, all_of(without_attention, scan), rates),
    "gemma": Layout(MODEL_ARCH.GEMMA, as_they_are, usual, finish=shifted_norms),
    "gemma2": Layout(MODEL_ARCH.GEMMA2, as_they_are, all_of(usual, caps, window), finish=shifted_norms),
    "gemma3_text": Layout(MODEL_ARCH.GEMMA3, as_they_are, all_of(usual, caps, window), finish=shifted_norms),
    "gemma3n_text": Layout(MODEL_ARCH.GEMMA3N, stacked_streams, all_of(usual, gemma3n)),
    "gemma4_text": Layout(MODEL_ARCH.GEMMA4, scaled_layers, all_of(usual, gemma4)),
    "gemma4_unified_text": Layout(MODEL_ARCH.GEMMA4, scaled_layers, all_of(usual, gemma4)),
    "glm": Layout(MODEL_ARCH.CHATGLM, as_they_are, all_of(usual, rotated(0.5))),
    "glm4": Layout(MODEL_ARCH.GLM4, as_they_are, all_of(usual, rotated(0.5))),
    "glm4_moe": Layout(MODEL_ARCH.GLM4_MOE, routed, all_of(usual, rotated(0.5), experts, sigmoid_experts)),
    "glm4_moe_lite": Layout(MODEL_ARCH.DEEPSEEK2, split_latent_heads, all_of(usual, experts, deepseek, of_latent_rows)),
    "glm_moe_dsa": Layout(MODEL_ARCH.GLM_DSA, split_latent_heads, _indexed),
    "gpt2": Layout(MODEL_ARCH.GPT2, turned, _of_positions),
    "gpt_bigcode": Layout(MODEL_ARCH.STARCODER, as_they_are, classic(lambda config: config.n_positions, lambda _: 1)),
    "gptj": Layout(MODEL_ARCH.GPTJ, as_they_are, all_of(_gptj, gptj_rotation)),
    "gpt_neox": Layout(MODEL_ARCH.GPTNEOX, ungrouped, all_of(usual, rotated(0.25), parallel_sublayers)),
    "gpt_oss": Layout(MODEL_ARCH.GPT_OSS, turned_experts, all_of(usual, window, experts)),
    "granite": Layout(MODEL_ARCH.GRANITE, pairs, all_of(usual, rotated(), scales)),
    "granitemoe": Layout(MODEL_ARCH.GRANITE_MOE, paired_experts, all_of(usual, rotated(), scales)),
    "granitemoehybrid": Layout(
        MODEL_ARCH.GRANITE_HYBRID,
        state_spaces,
        all_of(usual, rotated(), scales, shared_expert, state_space, granite_hybrid),
        rates,
    ),
    "granitemoeshared": Layout(MODEL_ARCH.GRANITE_MOE, paired_experts, all_of(usual, rotated(), scales, shared_expert)),
    "granite_swa": Layout(
        MODEL_ARCH.GRANITE, sunk_pairs, all_of(usual, scales, window_pattern, rope_pattern), own_name="granite_swa"
    ),
    "hunyuan_v1_dense": Layout(MODEL_ARCH.HUNYUAN_DENSE, as_they_are, all_of(usual, alpha)),
    "hunyuan_v1_moe": Layout(MODEL_ARCH.HUNYUAN_MOE, split_experts, all_of(usual, alpha, experts, one_shared_expert)),
    "hy_v3": Layout(MODEL_ARCH.EXAONE_MOE, with_bare_bias, all_of(usual, experts, hy_experts), own_name="hy_v3"),
    "jais2": Layout(MODEL_ARCH.JAIS2, as_they_are, all_of(usual, rotated())),
    "jamba": Layout(MODEL_ARCH.JAMBA, scans, all_of(usual, jamba), rates),
    "kimi_linear": Layout(MODEL_ARCH.KIMI_LINEAR, channel_decays, all_of(usual, kimi_linear), rates),
    "lfm2": Layout(MODEL_ARCH.LFM2, squeezed, all_of(usual, short_conv)),
    "lfm2_moe": Layout(MODEL_ARCH.LFM2MOE, squeezed, all_of(usual, short_conv, experts, short_conv_experts)),
    "llama": Layout(MODEL_ARCH.LLAMA, pairs, _llama),
    "llama4_text": Layout(MODEL_ARCH.LLAMA4, turned_stacks, all_of(_llama, llama4)),
    "minimax": Layout(
        MODEL_ARCH.MINIMAXM2, lightning, all_of(usual, rotated(), one_residual_scale), own_name="minimax-01"
    ),
    "minimax_m2": Layout(MODEL_ARCH.MINIMAXM2, routed, all_of(usual, rotated(), experts, gated_by_sigmoid)),
    "mimo_v2_flash": Layout(MODEL_ARCH.MIMO2, sunk_experts, all_of(usual, window_pattern, experts, mimo2)),
    "mamba": Layout(MODEL_ARCH.MAMBA, scans, all_of(without_attention, scan), rates),
    "mamba2": Layout(MODEL_ARCH.MAMBA2, spaces, all_of(without_attention, own_state_space), rates),
    "ministral3": Layout(MODEL_ARCH.MISTRAL3, pairs, all_of(_llama, ministral3)),
    "mistral": Layout(MODEL_ARCH.LLAMA, pairs, _llama),
    "mixtral": Layout(MODEL_ARCH.LLAMA, paired_experts, _llama),
    "mpt": Layout(
        MODEL_ARCH.MPT, as_they_are, all_of(classic(lambda config: config.max_seq_len, lambda _: None), alibi, bound)
    ),
    "nemotron": Layout(
        MODEL_ARCH.NEMOTRON, as_they_are, all_of(usual, rotated_as_if_heads_filled_hidden_size), finish=shifted_norms
    ),
    "nemotron_h": Layout(MODEL_ARCH.NEMOTRON_H, single_mixers, all_of(usual, own_state_space, nemotron_h), rates),
    "nemotron_h_moe": Layout(
        MODEL_ARCH.NEMOTRON_H_MOE,
        single_mixers,
        all_of(usual, own_state_space, nemotron_h, nemotron_h_experts),
        rates,
    ),
    "olmo": Layout(MODEL_ARCH.OLMO, pairs, all_of(usual, bound)),
    "olmo2": Layout(MODEL_ARCH.OLMO2, as_they_are, usual),
    "olmo3": Layout(MODEL_ARCH.OLMO2, as_they_are, all_of(usual, window_pattern)),
    "olmoe": Layout(MODEL_ARCH.OLMOE, split_experts, usual),
    "phi": Layout(MODEL_ARCH.PHI2, as_they_are, all_of(usual, rotated(0.5))),
    "phi3": Layout(MODEL_ARCH.PHI3, as_they_are, all_of(usual, rotated(), window, longrope_factors)),
    "phimoe": Layout(MODEL_ARCH.PHIMOE, split_experts, all_of(usual, rotated(), window)),
    "qwen2": Layout(MODEL_ARCH.QWEN2, as_they_are, usual),
    "qwen2_moe": Layout(MODEL_ARCH.QWEN2MOE, split_experts, all_of(usual, experts, shared_expert)),
    "qwen3_5_text": Layout(
        MODEL_ARCH.QWEN35, tiled_heads, all_of(usual, rotated(0.25), delta), rates_and_shifted_norms
    ),
    "qwen3_5_moe_text": Layout(
        MODEL_ARCH.QWEN35MOE,
        tiled_heads,
        all_of(usual, rotated(0.25), delta, experts, shared_expert),
        rates_and_shifted_norms,
    ),
    "qwen3_next": Layout(
        MODEL_ARCH.QWEN3NEXT,
        delta_heads,
        all_of(usual, rotated(0.25), delta, experts, shared_expert),
        rates_and_shifted_norms,
    ),
    "qwen3": Layout(MODEL_ARCH.QWEN3, as_they_are, usual),
    "qwen3_moe": Layout(MODEL_ARCH.QWEN3MOE, split_experts, all_of(usual, experts)),
    "rwkv7": Layout(MODEL_ARCH.RWKV7, mixed_rows, rwkv7),
    "seed_oss": Layout(MODEL_ARCH.SEED_OSS, as_they_are, usual),
    "smollm3": Layout(MODEL_ARCH.SMOLLM3, pairs, _llama),
    "stablelm": Layout(MODEL_ARCH.STABLELM, stacked_norms, all_of(usual, rotated(0.25), parallel_sublayers)),
    "starcoder2": Layout(MODEL_ARCH.STARCODER2, as_they_are, usual),
}

# Language models of multimodal classes, by the type of the same model by itself.
OF_MULTIMODAL = {
    "glm4": Layout(MODEL_ARCH.GLM4, halves, all_of(usual, rotated(0.5), axes)),
    "qwen2": Layout(MODEL_ARCH.QWEN2VL, as_they_are, all_of(usual, axes)),
    "qwen3": Layout(MODEL_ARCH.QWEN3VL, as_they_are, all_of(usual, axes, deepstack)),
    "qwen3_moe": Layout(MODEL_ARCH.QWEN3VLMOE, split_experts, all_of(usual, experts, axes, deepstack)),
}

# DeepSeek's files of before heads' matrices were split.
OLD_DEEPSEEK = Layout(MODEL_ARCH.DEEPSEEK2, routed, all_of(usual, experts, deepseek, of_latent_heads))
