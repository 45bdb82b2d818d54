"""trainable_layers: the linear layers that LoRA pairs can be trained for, by their names in transformers."""

from models.architecture.recurrence import GatedDeltaSpec
from models.decoder import Decoder
from models.families.module_names import NamedLinear, named_linears
from models.families.name_map import Rules
from models.linear.linear import Linear


def trainable_layers(decoder: Decoder, rules: Rules) -> dict[str, list[NamedLinear]]:
    """By the decoder's module, the layers of transformers that it is: all but experts, embeddings and the output layer.

    rules: the family's, for safetensors.
    """
    shards = {name: tuple(layer.shards) for name, layer in decoder.named_modules() if isinstance(layer, Linear)}
    named: dict[str, list[NamedLinear]] = {}
    for linear in named_linears(rules, decoder.spec, shards):
        if not _has_own_order(linear, decoder):
            named.setdefault(linear.destinations[0].module, []).append(linear)
    return named


def layer_kinds(named: dict[str, list[NamedLinear]]) -> list[str]:
    """The last parts of their names, such as "q_proj", each once."""
    return sorted({linear.kind for linears in named.values() for linear in linears})


def _has_own_order(linear: NamedLinear, decoder: Decoder) -> bool:
    """Whether its rows are in an order that only GGUF files of Qwen3.5 have, for which the rules know no way back."""
    first = linear.destinations[0]
    recurrence = None if first.layer is None else decoder.spec.layers[first.layer].recurrence
    return isinstance(recurrence, GatedDeltaSpec) and recurrence.tiles_key_heads and ".attn." in first.module
