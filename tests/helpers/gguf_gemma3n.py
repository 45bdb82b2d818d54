"""Layout of Gemma 3n in GGUF files: matrices of residual streams in stacks, and the metadata beside them."""

import re
from statistics import NormalDist

import torch
from gguf import GGUFWriter
from transformers import PretrainedConfig

from tests.helpers.gguf_layouts import State
from tests.helpers.gguf_metadata import window_pattern

_OF_A_STREAM = re.compile(r"model\.(altup_(?:unembed_)?projections)\.(\d+)\.weight")


def stacked_streams(config: PretrainedConfig, state: State) -> State:  # noqa: ARG001
    stacks: dict[str, list[torch.Tensor]] = {}
    others: State = {}
    for name, tensor in state.items():
        if of_stream := _OF_A_STREAM.fullmatch(name):
            stacks.setdefault(f"model.{of_stream[1]}.weight", []).append(tensor)
        else:
            others[f"{name}.weight" if name.endswith("_scale") else name] = tensor
    return {**others, **{name: torch.stack(tensors) for name, tensors in stacks.items()}}


def gemma3n(writer: GGUFWriter, config: PretrainedConfig) -> None:
    window_pattern(writer, config)
    writer.add_altup_active_idx(config.altup_active_idx)
    writer.add_altup_num_inputs(config.altup_num_inputs)
    writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
    writer.add_shared_kv_layers(config.num_kv_shared_layers)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    shares = config.activation_sparsity_pattern
    writer.add_activation_sparsity_scale(
        [NormalDist().inv_cdf(share) if share > 0 else float("-inf") for share in shares]
    )
