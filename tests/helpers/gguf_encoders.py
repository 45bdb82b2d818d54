"""ENCODER_LAYOUTS: what llama.cpp's converter writes of each encoder of transformers."""

import copy
import re
from collections.abc import Mapping

import gguf
import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, PoolingType
from transformers import PretrainedConfig

from tests.helpers.gguf_layouts import Layout, State, usual

_NOMIC_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "attn_output_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_mlp_layernorm": "layer_output_norm",
}


def _bert_tensors(config: PretrainedConfig, state: State) -> State:  # noqa: ARG001
    return {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}


def _roberta_tensors(config: PretrainedConfig, state: State) -> State:
    """Without the rows of positions up to the padding's, and with the names of the base model."""
    tensors = {name.removeprefix("roberta."): tensor for name, tensor in _bert_tensors(config, state).items()}
    positions = "embeddings.position_embeddings.weight"
    return {**tensors, positions: tensors[positions][config.pad_token_id + 1 :]}


def _nomic_tensors(config: PretrainedConfig, state: State) -> State:
    return {_in_blocks(name, _NOMIC_NAMES): tensor for name, tensor in _bert_tensors(config, state).items()}


def _in_blocks(name: str, names: Mapping[str, str]) -> str:
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name)
    return name if layer is None else f"blk.{layer[1]}.{names[layer[2]]}.{layer[3]}"


def _of_encoders(writer: GGUFWriter, config: PretrainedConfig) -> None:
    usual(writer, config)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)


def _of_roberta(writer: GGUFWriter, config: PretrainedConfig) -> None:
    shortened = copy.deepcopy(config)
    shortened.max_position_embeddings -= config.pad_token_id + 1
    _of_encoders(writer, shortened)
    writer.add_token_type_count(config.type_vocab_size)


def _of_modernbert(writer: GGUFWriter, config: PretrainedConfig) -> None:
    _of_encoders(writer, config)
    writer.add_sliding_window(config.local_attention)
    writer.add_sliding_window_pattern(config.layer_types.index("full_attention", 1))
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_string("modern-bert.hidden_activation", config.hidden_activation)


def _squeezed(name: str, values: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Older versions of the converter write matrices of one row as vectors."""
    return values.squeeze(0) if values.ndim == 2 and len(values) == 1 else values


ENCODER_LAYOUTS: dict[str, Layout] = {
    "bert": Layout(MODEL_ARCH.BERT, _bert_tensors, _of_encoders, _squeezed),
    "modernbert": Layout(MODEL_ARCH.MODERN_BERT, _bert_tensors, _of_modernbert),
    "nomic_bert": Layout(MODEL_ARCH.NOMIC_BERT, _nomic_tensors, _of_encoders),
    "roberta": Layout(MODEL_ARCH.BERT, _roberta_tensors, _of_roberta, _squeezed),
    "xlm-roberta": Layout(MODEL_ARCH.BERT, _roberta_tensors, _of_roberta, _squeezed),
}
