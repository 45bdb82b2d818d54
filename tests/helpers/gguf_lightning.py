"""Layout of lightning attention in GGUF files: the names of its tensors, and one factor for all residuals."""

import re

from gguf import GGUFWriter
from transformers import PretrainedConfig

from tests.helpers.gguf_layouts import State, split_experts

_NAMES = {"qkv_proj": "attn_qkv", "output_gate": "attn_gate", "norm": "attn_norm_2", "out_proj": "attn_output"}
_OF_LIGHTNING = re.compile(rf"model\.layers\.(\d+)\.self_attn\.({'|'.join(_NAMES)})\.weight")
_COMPUTED = ("_decay", "slope_rate")  # from the configuration


def lightning(config: PretrainedConfig, state: State) -> State:
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(_COMPUTED)}
    return {
        _OF_LIGHTNING.sub(lambda found: f"blk.{found[1]}.{_NAMES[found[2]]}.weight", name): tensor
        for name, tensor in split_experts(config, kept).items()
    }


def one_residual_scale(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_residual_scale(config.full_attn_alpha_factor)
