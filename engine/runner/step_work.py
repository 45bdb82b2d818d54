"""model_work: reads the sizes of a loaded model, from which the work of its steps is estimated."""

from collections.abc import Iterable

from torch import nn

from engine.scheduling.steps.work import AttentionSizes, ExpertSizes, ModelWork, ModuleSizes
from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import KVLayout, LayerLayout
from models.architecture.layer import Mixer
from models.architecture.recurrence import TokenShiftSpec
from models.attention.base import INDEX_PART
from models.decoder import Decoder
from models.kv.cache import CacheLayout
from models.layers.moe import MoE
from models.layers.streams import LayerStreams
from models.linear.linear import Linear
from models.loaded_model import LoadedModel

# Parts of a layer that compute all rows, also in the last layer.
_BEFORE_FEED_FORWARD = frozenset(("attn_norm", "attn", "attn_post_norm", "beside", "laurel", "streams"))


def model_work(model: LoadedModel) -> ModelWork | None:
    """Return the ModelWork of a model; None for transformers' model code, whose structure is not known."""
    decoder = model.decoder
    return decoder_work(decoder, model.cache_layout, model.vocab_size) if isinstance(decoder, Decoder) else None


def decoder_work(decoder: Decoder, cache_layout: CacheLayout, vocab_size: int) -> ModelWork:
    """Return the ModelWork of a decoder, which may be on the meta device."""
    every, late = _by_rows(decoder)
    own = list(zip(decoder.mixers, cache_layout.layers, strict=True))
    readers = {
        index: (layer.attention, cache_layout.layers[decoder.mixer_indices(index).start])
        for index, layer in enumerate(decoder.spec.layers)
        if layer.kv_layer is not None
    }
    early = [each for index, each in readers.items() if index < decoder.num_caching]
    attention = _attention_of([*own, *early], decoder.spec.index_topk)
    head_flops = 2 * vocab_size * (decoder.spec.embedding_size or decoder.spec.hidden_size)
    return ModelWork(
        every=_cost(every),
        late=_cost(late),
        head=ModuleSizes(num_bytes([decoder.head]), head_flops),
        full=tuple(each for each in attention if not each.window),
        windows=tuple(each for each in attention if each.window),
        late_attention=tuple(_attention_of([each for index, each in readers.items() if index >= decoder.num_caching])),
        written_per_row=sum(layout.position_bytes for _, layout in own if isinstance(layout, KVLayout)),
        state_bytes=cache_layout.state_bytes,
    )


def _by_rows(decoder: Decoder) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the modules that compute every row, and those before the head that compute rows with logits alone."""
    layers, inputs, streams = list(decoder.layers), decoder.layer_inputs, decoder.streams
    every, late = layers[: decoder.num_caching], layers[decoder.num_caching :]
    if not late:
        last = every.pop()
        parts = dict(last.named_children())
        early = {name: part for name, part in parts.items() if name in _BEFORE_FEED_FORWARD}
        every += early.values()
        late = [part for name, part in parts.items() if name not in early]
    every += [inputs.project, inputs.norm] if inputs is not None else []
    every += [streams.expand] if streams is not None else []
    late += [streams.merge] if streams is not None else []
    every += [decoder.project_in] if decoder.project_in is not None else []
    late += [decoder.project_out] if decoder.project_out is not None else []
    return every, late


def _cost(modules: list[nn.Module]) -> ModuleSizes:
    inner = [each for module in modules for each in module.modules()]
    routed = [each for each in inner if isinstance(each, MoE)]
    of_experts = {id(each) for layer in routed for each in layer.experts.modules()}
    linears = [each for each in inner if isinstance(each, Linear) and id(each) not in of_experts]
    linears += [linear for layer in routed for linear in _chosen_linears(layer)]
    linears += [each.router for each in inner if isinstance(each, LayerStreams)]  # once more, to correct the streams
    experts = tuple(
        ExpertSizes(len(each.experts), each.router.spec.experts_per_token, num_bytes(each.experts[:1]))
        for each in routed
    )
    return ModuleSizes(
        num_bytes(modules) - sum(num_bytes([layer.experts]) for layer in routed),
        _num_flops(linears) + 2 * sum(layer.router.weight.numel() for layer in routed),
        experts,
    )


def _chosen_linears(layer: MoE) -> list[Linear]:
    """Return the linear layers of as many experts as each row is routed to."""
    chosen = layer.experts[: layer.router.spec.experts_per_token]
    return [each for each in chosen.modules() if isinstance(each, Linear)]


def _num_flops(linears: Iterable[Linear]) -> int:
    """Return the FLOPs of one row."""
    return 2 * sum(linear.in_features * linear.out_features for linear in linears)


def _attention_of(
    layers: Iterable[tuple[Mixer | TokenShiftSpec, LayerLayout]], topk: int | None = None
) -> list[AttentionSizes]:
    """Return AttentionSizes for each kind of window in the layers. topk: positions that indexers choose."""
    by_window: dict[
        tuple[int, bool], list[tuple[int, int]]
    ] = {}  # bytes of a position, and FLOPs for each that is seen
    for spec, layout in layers:
        if isinstance(spec, AttentionSpec) and isinstance(layout, KVLayout):
            index_bytes = sum(part.num_bytes for part in layout.parts if part.name == INDEX_PART) // layout.tile
            # As many positions as are chosen have the cost of a window.
            is_chosen = spec.indexer is not None or spec.reuses_choice
            window = (spec.sliding_window or spec.chunk or (is_chosen and topk) or 0, spec.chunk is not None)
            flops = 2 * spec.num_heads * (spec.head_dim + spec.value_dim)
            by_window.setdefault(window, []).append((layout.position_bytes - index_bytes, flops))
            if spec.indexer is not None:
                scores = 2 * spec.indexer.num_heads * spec.indexer.head_dim
                by_window.setdefault((0, False), []).append((index_bytes, scores))
    return [AttentionSizes(*window, *map(sum, zip(*costs, strict=True))) for window, costs in by_window.items()]


def num_bytes(modules: Iterable[nn.Module]) -> int:
    """Return the total bytes of the modules' parameters and buffers, counting shared tensors once."""
    tensors = {id(tensor): tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensors.values())
