"""Mixtures of experts: rules for the names of their tensors, and their GGUF fields."""

from typing import Any

from models.checkpoints.gguf.fields import num_layers
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.errors import UnsupportedModelError
from models.families.name_map import To
from models.families.sublayers import mlp_names
from models.families.transforms import as_rows


def expert_names(
    block: str, *, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj", place: str = "mlp"
) -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for experts in "model.layers.{i}.<block>.experts", stored one by one or stacked in one tensor.

    block: may be "", for "model.layers.{i}.experts". place: "mlp", or "moe" for experts beside an MLP.
    """
    experts = f"model.layers.{{i}}.{block}.experts" if block else "model.layers.{i}.experts"
    first, second = (f"layers.{{i}}.{place}.experts.{{e}}.{matrix}" for matrix in ("gate_up", "down"))
    return {
        f"{experts}.{{e}}.{gate}.*": To(first, "gate"),
        f"{experts}.{{e}}.{up}.*": To(first, "up"),
        f"{experts}.{{e}}.{down}.*": To(second),
        f"{experts}.gate_up_proj": To(first),
        f"{experts}.down_proj": To(second),
    }


def shared_names(block: str, *, name: str = "shared_expert") -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for the shared expert, which computes every row, and for the gate of its output."""
    return {
        **mlp_names(f"{block}.{name}", place="mlp.shared"),
        f"model.layers.{{i}}.{block}.{name}_gate.weight": To("layers.{i}.mlp", parameter="shared_gate"),
    }


def gguf_stacked_names(place: str) -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for the router and the stacks of experts. place: as in `expert_names`."""
    first, second = (f"layers.{{i}}.{place}.experts.{{e}}.{matrix}" for matrix in ("gate_up", "down"))
    return {
        "blk.{i}.ffn_gate_inp.*": To(f"layers.{{i}}.{place}.router"),
        "blk.{i}.ffn_gate_exps.*": To(first, "gate"),
        "blk.{i}.ffn_up_exps.*": To(first, "up"),
        "blk.{i}.ffn_gate_up_exps.*": To(first),
        "blk.{i}.ffn_down_exps.*": To(second),
    }


GGUF_EXPERT_NAMES: dict[str, To | tuple[To, ...] | None] = {
    **gguf_stacked_names("mlp"),
    "blk.{i}.ffn_gate.{e}.*": To("layers.{i}.mlp.experts.{e}.gate_up", "gate"),  # older files, without stacks
    "blk.{i}.ffn_up.{e}.*": To("layers.{i}.mlp.experts.{e}.gate_up", "up"),
    "blk.{i}.ffn_down.{e}.*": To("layers.{i}.mlp.experts.{e}.down"),
    "blk.{i}.ffn_gate_shexp.*": To("layers.{i}.mlp.shared.gate_up", "gate"),
    "blk.{i}.ffn_up_shexp.*": To("layers.{i}.mlp.shared.gate_up", "up"),
    "blk.{i}.ffn_down_shexp.*": To("layers.{i}.mlp.shared.down"),
    "blk.{i}.ffn_gate_inp_shexp.weight": To("layers.{i}.mlp", None, as_rows, "shared_gate"),
}


def gguf_expert_fields(file: GGUFMetadata, *, size: str = "moe_intermediate_size") -> dict[str, Any]:
    """Return config.json's fields for experts. size: the name of the field for an expert's intermediate size."""
    num_experts, per_token = file.integer("expert_count"), file.integer("expert_used_count")
    intermediate_size = file.size("expert_feed_forward_length") or file.integer("feed_forward_length")
    return {
        "num_experts": num_experts,
        "num_local_experts": num_experts,
        "num_experts_per_tok": per_token,
        size: intermediate_size,
    }


def gguf_mlp_types(file: GGUFMetadata) -> list[str]:
    """Return config.json's `mlp_layer_types`, by the tensors: not all converters write how many layers are dense."""
    has_experts = (f"blk.{index}.ffn_gate_inp.weight" in file.tensors for index in range(num_layers(file)))
    return ["sparse" if has else "dense" for has in has_experts]


def gguf_scoring(file: GGUFMetadata, *, default: str) -> str:
    """Return the router's scoring function, "softmax" or "sigmoid"; `default` if the file does not state it."""
    names = {1: "softmax", 2: "sigmoid"}
    number = file.size("expert_gating_func")
    if number is not None and number not in names:
        raise UnsupportedModelError(
            f"{file.source}: expert_gating_func {number} is not supported; supported are 1 (softmax) and 2 (sigmoid)"
        )
    return default if number is None else names[number]


def require_sigmoid(file: GGUFMetadata) -> None:
    """Raise UnsupportedModelError if the file states another scoring function, for families that have only sigmoid."""
    if gguf_scoring(file, default="sigmoid") != "sigmoid":
        raise UnsupportedModelError(
            f"{file.source}: this architecture is supported only with an expert_gating_func of 2 (sigmoid)"
        )
