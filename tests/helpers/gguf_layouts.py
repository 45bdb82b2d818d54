"""How llama.cpp's converter stores each architecture: the order of rows, and the metadata beside them.

Names come from the gguf package's own map; what stands here is what that map does not say.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gguf
import numpy as np
import torch
from transformers import PretrainedConfig

State = dict[str, torch.Tensor]
Rearrange = Callable[[PretrainedConfig, State], State]
Describe = Callable[[gguf.GGUFWriter, PretrainedConfig], None]


@dataclass(frozen=True)
class Layout:
    """rearrange: a model's tensors to those of the file, still under names that the gguf package knows; it only moves
    numbers, so that it can be asked where each one went. describe: adds the metadata.
    """

    arch: gguf.MODEL_ARCH
    rearrange: Rearrange
    describe: Describe
    finish: Callable[[str, np.ndarray], np.ndarray] = lambda _, values: values  # the last thing done to a tensor
    in_metadata: Callable[[str], str | None] = lambda _: None  # the key that has a layer's number in a tensor's place
    own_name: str = ""  # of an architecture that the gguf package lacks, whose tensors have the names of `arch`

    @property
    def name(self) -> str:
        """The file's general.architecture."""
        return self.own_name or gguf.MODEL_ARCH_NAMES[self.arch]


# --- rows ------------------------------------------------------------------------------------------------------------


def as_they_are(config: PretrainedConfig, state: State) -> State:  # noqa: ARG001
    return state


def pairs(config: PretrainedConfig, state: State) -> State:
    """Rotary halves to neighbors, in q and k: llama.cpp's "norm" order."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}

    def turned(name: str, tensor: torch.Tensor) -> torch.Tensor:
        count = next((heads[part] for part in heads if f".{part}." in name), None)
        return tensor if count is None else tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2)

    return {name: turned(name, tensor) for name, tensor in state.items()}


def halves(config: PretrainedConfig, state: State) -> State:
    """Neighboring rotary pairs to halves, in the rotated part of q's and k's heads."""
    dim = config.head_dim
    rotated = int(dim * config.rope_parameters["partial_rotary_factor"])
    order = [*range(0, rotated, 2), *range(1, rotated, 2), *range(rotated, dim)]

    def turned(name: str, tensor: torch.Tensor) -> torch.Tensor:
        is_turned = ".q_proj." in name or ".k_proj." in name
        return tensor.unflatten(0, (-1, dim))[:, order].flatten(0, 1) if is_turned else tensor

    return {name: turned(name, tensor) for name, tensor in state.items()}


def split_experts(config: PretrainedConfig, state: State) -> State:  # noqa: ARG001
    """Stacks [experts, gate and up, in] to one of each; Granite calls them and its router otherwise."""
    return dict(_with_split_experts(state))


def _with_split_experts(state: State) -> Iterator[tuple[str, torch.Tensor]]:
    for stored, tensor in state.items():
        name = stored.replace("block_sparse_moe.experts", "mlp.experts").replace("moe.router.", "moe.router.layer.")
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            yield name.replace("gate_up_proj", "gate_proj.weight"), gate
            yield name.replace("gate_up_proj", "up_proj.weight"), up
        elif name.endswith("experts.down_proj"):
            yield name + ".weight", tensor
        elif name.endswith("shared_mlp.input_linear.weight"):
            gate, up = tensor.chunk(2, dim=0)
            yield name.replace("shared_mlp.input_linear", "mlp.shared_expert.gate_proj"), gate
            yield name.replace("shared_mlp.input_linear", "mlp.shared_expert.up_proj"), up
        else:
            yield name.replace("shared_mlp.output_linear", "mlp.shared_expert.down_proj"), tensor


def paired_experts(config: PretrainedConfig, state: State) -> State:
    return split_experts(config, pairs(config, state))


def turned_experts(config: PretrainedConfig, state: State) -> State:  # noqa: ARG001
    """gpt-oss: stacks [experts, in, gate and up in turn]."""

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in state.items():
            if "experts.gate_up_proj" in name:
                rows = tensor if name.endswith("bias") else tensor.transpose(1, 2)
                end = ".bias" if name.endswith("bias") else ".weight"
                base = name.removesuffix("_bias")
                yield base.replace("gate_up_proj", "gate_proj") + end, rows[:, 0::2]
                yield base.replace("gate_up_proj", "up_proj") + end, rows[:, 1::2]
            elif name.endswith("experts.down_proj"):
                yield name + ".weight", tensor.transpose(1, 2)
            elif name.endswith("sinks"):
                yield name + ".weight", tensor
            else:
                yield name.replace("down_proj_bias", "down_proj.bias"), tensor

    return dict(stored())


def turned_stacks(config: PretrainedConfig, state: State) -> State:
    """Llama 4: stacks [experts, in, gate and up]."""
    is_stack = re.compile(r"experts\.(gate_up|down)_proj$")
    state = {name: tensor.transpose(1, 2) if is_stack.search(name) else tensor for name, tensor in state.items()}
    return split_experts(config, state)


def split_latent_heads(config: PretrainedConfig, state: State) -> State:
    """DeepSeek: the heads' W_k, transposed, and W_v apart."""

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in routed(config, state).items():
            if name.endswith("kv_b_proj.weight"):
                heads = tensor.unflatten(0, (config.num_attention_heads, -1))
                keys, values = heads.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
                yield name.replace("kv_b_proj", "k_b_proj"), keys.transpose(1, 2)
                yield name.replace("kv_b_proj", "v_b_proj"), values
            else:
                yield name, tensor

    return dict(stored())


def sunk_pairs(config: PretrainedConfig, state: State) -> State:
    """Granite SWA's sinks, under the name of their tensor."""
    return {
        re.sub(r"model\.layers\.(\d+)\.self_attn\.sinks", r"blk.\1.attn_sinks.weight", name): tensor
        for name, tensor in pairs(config, state).items()
    }


def with_expert_bias(config: PretrainedConfig, state: State) -> State:
    """Experts, and what corrects their scores, which the model calls a bias of experts, under a name that is a bias."""
    return {
        name.replace(".expert_bias", ".expert_bias.bias"): place for name, place in split_experts(config, state).items()
    }


def routed(config: PretrainedConfig, state: State) -> State:
    """DeepSeek's experts, and what corrects their scores under a name that is a bias."""
    split = split_experts(config, state)
    return {name.replace("e_score_correction_bias", "e_score_correction.bias"): split[name] for name in split}


def sunk_experts(config: PretrainedConfig, state: State) -> State:
    """DeepSeek's experts, and sinks under the name of their tensor."""
    return {
        re.sub(r"model\.layers\.(\d+)\.self_attn\.sinks", r"blk.\1.attn_sinks.weight", name): tensor
        for name, tensor in routed(config, state).items()
    }


def with_statics(config: PretrainedConfig, state: State) -> State:
    """ERNIE's experts, and what corrects their scores, [1, experts], under a name that is a bias."""
    split, name_of = split_experts(config, state), "moe_statics.e_score_correction"
    return {name.replace(f"gate.{name_of}_bias", f"{name_of}.bias"): place for name, place in split.items()}


def with_bare_bias(config: PretrainedConfig, state: State) -> State:
    """Hy3's experts, and what corrects their scores under a name that does not end with a parameter."""
    return {
        re.sub(r"model\.layers\.(\d+)\.mlp\.e_score_correction_bias", r"blk.\1.exp_probs_b", name): place
        for name, place in split_experts(config, state).items()
    }


def inner_norms(config: PretrainedConfig, state: State) -> State:  # noqa: ARG001
    """BitNet's norms under the names that the gguf package knows."""
    known = {"attn_sub_norm": "inner_attn_ln", "ffn_sub_norm": "ffn_layernorm"}
    return {re.sub("|".join(known), lambda match: known[match[0]], name): place for name, place in state.items()}


def scaled_layers(config: PretrainedConfig, state: State) -> State:  # noqa: ARG001
    """Gemma 4's scales and stacks of experts, under names that end with a parameter."""
    ends = {
        r"\.layer_scalar$": ".layer_scalar.weight",
        r"\.experts\.(\w+)$": r".experts.\1.weight",
        r"model\.layers\.(\d+)\.router\.scale$": r"blk.\1.ffn_gate_inp.scale",
        r"model\.layers\.(\d+)\.router\.per_expert_scale$": r"blk.\1.ffn_down_exps.scale",
    }

    def stored(name: str) -> str:
        return next((re.sub(end, to, name) for end, to in ends.items() if re.search(end, name)), name)

    return {stored(name): tensor for name, tensor in state.items()}


def xielu_number(name: str) -> str | None:
    """Return the metadata's key for a number of Apertus' activation."""
    return f"xielu.{name.rpartition('.')[2]}" if ".act_fn." in name else None


def turned(config: PretrainedConfig, state: State) -> State:  # noqa: ARG001
    """GPT-2's Conv1D."""
    ends = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {name: tensor.t() if name.endswith(ends) else tensor for name, tensor in state.items()}


def ungrouped(config: PretrainedConfig, state: State) -> State:
    """Fused rows of (queries, a key, a value), group after group, to all queries, all keys, all values."""
    heads = config.num_attention_heads
    groups = falcon_groups(config) if config.model_type == "falcon" else heads

    def order(tensor: torch.Tensor) -> torch.Tensor:
        rows = tensor.unflatten(0, (groups, heads // groups + 2, -1))
        return torch.cat([rows[:, :-2].flatten(0, 2), rows[:, -2].flatten(0, 1), rows[:, -1].flatten(0, 1)])

    return {
        name.removeprefix("transformer.") if config.model_type == "bloom" else name: (
            order(tensor) if ".query_key_value." in name else tensor
        )
        for name, tensor in state.items()
    }


def falcon_groups(config: PretrainedConfig) -> int:
    if config.new_decoder_architecture:
        return int(config.num_kv_heads)
    return 1 if config.multi_query else int(config.num_attention_heads)


def stacked_norms(config: PretrainedConfig, state: State) -> State:  # noqa: ARG001
    """StableLM's norms of heads, one tensor each, to one [heads, D] a layer."""
    stacks: dict[str, list[torch.Tensor]] = {}
    for name, tensor in state.items():
        stacks.setdefault(re.sub(r"\.norms\.\d+", "", name), []).append(tensor)
    is_norm_of_heads = re.compile(r"self_attn\.[qk]_layernorm\.")
    return {name: torch.stack(parts) if is_norm_of_heads.search(name) else parts[0] for name, parts in stacks.items()}


def squeezed(config: PretrainedConfig, state: State) -> State:
    """Convolutions of each channel by itself as matrices; a bias that is no layer's gets the end of one."""
    return {
        name.replace(".expert_bias", ".expert_bias.bias"): tensor.squeeze(1)
        if ".conv" in name and tensor.dim() > 1
        else tensor
        for name, tensor in split_experts(config, state).items()
    }


def delta_heads(config: PretrainedConfig, state: State) -> State:
    """Qwen3-Next: what is fused by key head to q, k, v and z each together."""
    per_key_head = config.linear_num_value_heads // config.linear_num_key_heads * config.linear_value_head_dim
    sizes = [config.linear_key_head_dim] * 2 + [per_key_head] * 2

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in squeezed(config, state).items():
            if name.endswith("in_proj_qkvz.weight"):
                parts = tensor.unflatten(0, (config.linear_num_key_heads, -1)).split(sizes, dim=1)
                q, k, v, z = (part.flatten(0, 1) for part in parts)
                layer = name.split(".")[2]
                yield f"blk.{layer}.attn_qkv.weight", torch.cat((q, k, v))
                yield f"blk.{layer}.attn_gate.weight", z
            else:
                yield name.replace("dt_bias", "dt_proj.bias"), tensor

    return dict(stored())


def tiled_heads(config: PretrainedConfig, state: State) -> State:
    """Qwen3.5: value heads not by key head, but the first of each key head, then the second of each."""
    num_keys, dim = config.linear_num_key_heads, config.linear_value_head_dim
    start_of_v = 2 * num_keys * config.linear_key_head_dim

    def tiled(tensor: torch.Tensor, size: int) -> torch.Tensor:
        return tensor.unflatten(0, (num_keys, -1, size)).transpose(0, 1).flatten(0, 2)

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in squeezed(config, state).items():
            if ".in_proj_qkv." in name or ".conv1d." in name:
                tensor = torch.cat((tensor[:start_of_v], tiled(tensor[start_of_v:], dim)))
            elif ".in_proj_z." in name:
                tensor = tiled(tensor, dim)
            elif ".linear_attn.out_proj." in name:
                tensor = tiled(tensor.t(), dim).t()
            elif name.endswith(("in_proj_a.weight", "in_proj_b.weight", "A_log", "dt_bias")):
                tensor = tiled(tensor, 1)
            yield name.replace("dt_bias", "dt_proj.bias"), tensor

    return dict(stored())


def state_spaces(config: PretrainedConfig, state: State) -> State:
    """Granite 4: parameters of heads as columns, norms a row for each group; without experts the shared MLP alone."""
    return spaces(config, squeezed(config, pairs(config, state)))


def spaces(config: PretrainedConfig, state: State) -> State:
    """State spaces as all converters write them."""
    groups = next(getattr(config, name) for name in ("mamba_n_groups", "n_groups") if hasattr(config, name))

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in state.items():
            if tensor.dim() == 3 and ".conv1d." in name:
                tensor = tensor.squeeze(1)
            if not getattr(config, "num_local_experts", 0):
                name = name.replace(".shared_expert.", ".")
            if name.endswith((".A_log", ".D")):
                tensor = tensor.unsqueeze(1)
            elif name.endswith((".mamba.norm.weight", ".mixer.norm.weight")):
                tensor = tensor.unflatten(0, (groups, -1))
            yield name.replace("dt_bias", "dt_proj.bias"), tensor

    return dict(stored())


def single_mixers(config: PretrainedConfig, state: State) -> State:
    """Nemotron-H: stacks of experts under the names of other families."""

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in spaces(config, state).items():
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
            if ".mixer.experts." in name:
                yield name.replace(".mixer.", ".mlp.") + ".weight", tensor
            else:
                yield name.replace("model.", "backbone.", 1), tensor

    return dict(stored())


def scans(config: PretrainedConfig, state: State) -> State:
    """Selective scans, of which no parameter has another shape than in transformers but the convolution's."""
    return {
        name: tensor.squeeze(1) if tensor.dim() == 3 and ".conv1d." in name else tensor
        for name, tensor in split_experts(config, state).items()
    }


def channel_decays(config: PretrainedConfig, state: State) -> State:
    """Kimi Linear: the convolutions of q, k and v apart, with four dimensions."""

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in split_latent_heads(config, state).items():
            name = name.replace("forget_gate.", "").replace("dt_bias", "dt_proj.bias")
            if ".conv1d." in name:
                for part, channels in zip("qkv", tensor.chunk(3), strict=True):
                    yield name.replace("conv1d", f"{part}_conv1d"), channels.unsqueeze(0)
            else:
                yield name, tensor

    return dict(stored())


# --- numbers ---------------------------------------------------------------------------------------------------------


def shifted_norms(name: str, values: np.ndarray) -> np.ndarray:
    """Gemma's weights of norms, to which it adds one when they are used."""
    return values + 1 if name.endswith("norm.weight") else values


def rates(name: str, values: np.ndarray) -> np.ndarray:
    """Decays as they are used, not their logarithms."""
    return -np.exp(values) if name.endswith("A_log") else values


def rates_and_shifted_norms(name: str, values: np.ndarray) -> np.ndarray:
    if name.endswith("A_log"):
        return -np.exp(values)
    return values if name.endswith("linear_attn.norm.weight") else shifted_norms(name, values)


# --- metadata --------------------------------------------------------------------------------------------------------


def usual(writer: gguf.GGUFWriter, config: PretrainedConfig) -> None:
    """What the converter writes of most architectures."""
    fields = config.to_dict()
    for add, names in (
        (writer.add_context_length, ("max_position_embeddings",)),
        (writer.add_embedding_length, ("hidden_size",)),
        (writer.add_feed_forward_length, ("intermediate_size",)),
        (writer.add_head_count, ("num_attention_heads",)),
        (writer.add_head_count_kv, ("num_key_value_heads",)),
        (writer.add_layer_norm_rms_eps, ("rms_norm_eps",)),
        (writer.add_layer_norm_eps, ("layer_norm_eps", "norm_epsilon", "norm_eps")),
        (writer.add_expert_count, ("num_local_experts", "num_experts")),
        (writer.add_expert_used_count, ("num_experts_per_tok",)),
        (writer.add_key_length, ("head_dim",)),
        (writer.add_value_length, ("head_dim",)),
    ):
        value = next((fields[name] for name in names if fields.get(name) is not None), None)
        if value is not None:
            add(value)
    rope(writer, fields.get("rope_parameters") or {})


def rope(writer: gguf.GGUFWriter, parameters: dict) -> None:
    of_all = parameters.get("full_attention", parameters)
    if of_all.get("rope_theta") is not None:
        writer.add_rope_freq_base(of_all["rope_theta"])
    if "sliding_attention" in parameters:
        writer.add_rope_freq_base_swa(parameters["sliding_attention"]["rope_theta"])
    kind = of_all.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(of_all["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(of_all["original_max_position_embeddings"])
        for name, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if of_all.get(name) is not None:
                add(of_all[name])
