"""The linear layers that LoRA can train, by their names in transformers."""

from models.architecture.attention import AttentionSpec
from models.architecture.recurrence import GatedDeltaSpec, SelectiveScanSpec, StateSpaceSpec
from models.decoder import Decoder
from models.families.module_names import NamedLinear, named_linears
from models.families.name_map import Rules
from models.linear.linear import Linear


def trainable_layers(decoder: Decoder, rules: Rules) -> dict[str, list[NamedLinear]]:
    """Return the linear layers that LoRA can train, as in transformers, by the name of the decoder's module.

    These are all layers except experts, embeddings, the output layer, and two in state spaces that PEFT cannot change:
    `out`, which it refuses, and `dt_proj`, by whose weight transformers multiplies without calling it. Of models
    with an indexer there are none: training computes no gradients of its choice.

    rules: for tensor names in safetensors.
    """
    if decoder.spec.index_topk is not None:
        return {}
    shards = {name: tuple(layer.shards) for name, layer in decoder.named_modules() if isinstance(layer, Linear)}
    named: dict[str, list[NamedLinear]] = {}
    for linear in named_linears(rules, decoder.spec, shards):
        if not _has_gguf_order(linear, decoder) and not _is_closed_to_peft(linear, decoder):
            named.setdefault(linear.destinations[0].module, []).append(linear)
    return named


def layer_kinds(named: dict[str, list[NamedLinear]]) -> list[str]:
    """Return the distinct last parts of the layers' names, such as "q_proj", which LoRA targets refer to."""
    return sorted({linear.kind for linears in named.values() for linear in linears})


def _is_closed_to_peft(linear: NamedLinear, decoder: Decoder) -> bool:
    first = linear.destinations[0]
    if first.layer is None:
        return False
    spec = decoder.spec.layers[first.layer]
    is_recurrent = ".beside." in first.module or (
        ".attn." in first.module and not isinstance(spec.mixer, AttentionSpec)
    )
    space = spec.recurrence
    is_mamba = isinstance(space, SelectiveScanSpec) or (isinstance(space, StateSpaceSpec) and space.rates is None)
    return is_recurrent and is_mamba and first.module.endswith((".out", ".dt_proj"))


def _has_gguf_order(linear: NamedLinear, decoder: Decoder) -> bool:
    """Whether the layer's rows are in the order of Qwen3.5's GGUF files, which the rules cannot reverse."""
    first = linear.destinations[0]
    recurrence = None if first.layer is None else decoder.spec.layers[first.layer].recurrence
    return isinstance(recurrence, GatedDeltaSpec) and recurrence.tiles_key_heads and ".attn." in first.module
