"""Tiny configurations of the architectures that are not Llama with other numbers, at least two each."""

from collections.abc import Callable

from transformers import (
    BloomConfig,
    Cohere2Config,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXConfig,
    MptConfig,
    OPTConfig,
    PretrainedConfig,
    StableLmConfig,
    Starcoder2Config,
)

from tests.helpers.checkpoints import SMALL, VOCAB_SIZE

_NO_PAD = {"pad_token_id": None}
_GPT2_SIZES = {"vocab_size": VOCAB_SIZE, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
_IDS = {"bos_token_id": 1, "eos_token_id": 2}


def _tiny(kind: type[PretrainedConfig], **own: object) -> Callable[..., PretrainedConfig]:
    """A maker of configurations of SMALL size with the family's own fields, which calls may change."""
    return lambda **changes: kind(**{**SMALL, **own, **changes})


def _sized(kind: type[PretrainedConfig], **own: object) -> Callable[..., PretrainedConfig]:
    """The same for families that call their sizes by other names."""
    return lambda **changes: kind(**{**_IDS, **own, **changes})


gemma = _tiny(GemmaConfig, head_dim=32, **_NO_PAD)
gemma2 = _tiny(Gemma2Config, head_dim=32, query_pre_attn_scalar=24, sliding_window=6, **_NO_PAD)
gemma3 = _tiny(
    Gemma3TextConfig, head_dim=32, query_pre_attn_scalar=24, sliding_window=6, num_hidden_layers=6, **_NO_PAD
)
cohere = _tiny(CohereConfig, logit_scale=0.8, **_NO_PAD)
cohere2 = _tiny(Cohere2Config, logit_scale=0.8, sliding_window=6, num_hidden_layers=4, **_NO_PAD)
stablelm = _tiny(StableLmConfig)
starcoder2 = _tiny(Starcoder2Config)
neox = _tiny(GPTNeoXConfig)
starcoder = _sized(GPTBigCodeConfig, **_GPT2_SIZES)
gptj = _sized(GPTJConfig, rotary_dim=8, **_GPT2_SIZES)
opt = _tiny(OPTConfig, ffn_dim=96, **_NO_PAD)
falcon = _sized(FalconConfig, vocab_size=VOCAB_SIZE, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
mpt = _sized(MptConfig, vocab_size=VOCAB_SIZE, d_model=64, n_heads=4, n_layers=2, max_seq_len=128)
bloom = _sized(BloomConfig, vocab_size=VOCAB_SIZE, hidden_size=64, n_head=4, n_layer=2)

CLASSIC_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma": gemma,
    "gemma-untied-mha": lambda: gemma(tie_word_embeddings=False, num_key_value_heads=4),
    "gemma2": gemma2,
    "gemma2-without-caps": lambda: gemma2(
        final_logit_softcapping=None, attn_logit_softcapping=None, layer_types=["full_attention", "sliding_attention"]
    ),
    "gemma3": gemma3,
    "gemma3-scaled": lambda: gemma3(
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        final_logit_softcapping=20.0,
        rms_norm_eps=1e-3,
    ),
    "cohere": cohere,
    "cohere-qk-norm": lambda: cohere(use_qk_norm=True, attention_bias=True, layer_norm_eps=1e-3),
    "cohere2": cohere2,
    "cohere2-untied": lambda: cohere2(tie_word_embeddings=False, layer_types=["full_attention"] * 4),
    "stablelm": stablelm,
    "stablelm-parallel-qk-norm": lambda: stablelm(
        use_parallel_residual=True, qk_layernorm=True, use_qkv_bias=True, layer_norm_eps=1e-3
    ),
    "starcoder-mqa": starcoder,
    "starcoder-mha": lambda: starcoder(multi_query=False, tie_word_embeddings=False),
    "starcoder2": starcoder2,
    "starcoder2-window-no-biases": lambda: starcoder2(sliding_window=6, use_bias=False, tie_word_embeddings=False),
    "gptj": gptj,
    "gptj-all-rotated": lambda: gptj(rotary_dim=16, n_inner=80),
    "gpt-neox": neox,
    "gpt-neox-one-after-the-other": lambda: neox(
        use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new", rotary_pct=1.0
    ),
    "opt": opt,
    "opt-350m": lambda: opt(word_embed_proj_dim=48, do_layer_norm_before=False),
    "opt-no-biases": lambda: opt(enable_bias=False, layer_norm_elementwise_affine=False, tie_word_embeddings=False),
    "falcon-one-norm": falcon,
    "falcon-two-norms": lambda: falcon(new_decoder_architecture=True, num_kv_heads=2),
    "falcon-alibi": lambda: falcon(alibi=True, parallel_attn=False, multi_query=False, bias=True),
    "mpt": mpt,
    "mpt-three-heads": lambda: mpt(
        d_model=48, n_heads=3, attn_config={"softmax_scale": 0.2, "clip_qkv": 0.8}, tie_word_embeddings=False
    ),
    "bloom": bloom,
    "bloom-six-heads": lambda: bloom(hidden_size=96, n_head=6, tie_word_embeddings=False),
}
