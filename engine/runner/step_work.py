"""ModelWork: estimates the FLOPs and memory traffic of a step's forward pass, from the plan and the model's sizes.

The estimate is a lower bound for any implementation. Each stored weight is read once per step, and as many experts as
even routing would select. Keys and values are read once per sequence by each layer that attends to them. The last
layer's feed-forward, and layers that only read what earlier ones have cached, count for rows with logits alone. Where
an indexer chooses positions, its keys are read, and of keys and values as many positions as are chosen. Each weight and
row, and each key or value element that a row attends to, takes a multiply and an add. Activations and embeddings count
nothing, since they stay in caches or are small; nor does the arithmetic of recurrences, which is small next to their
projections. Time over work shows how well the hardware is used (roofline model: S. Williams, A. Waterman, D. Patterson,
2009).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from engine.scheduling.plan import StepPlan, StepWork
from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import KVLayout, LayerLayout
from models.architecture.layer import Mixer
from models.architecture.recurrence import TokenShiftSpec
from models.attention.base import INDEX_PART
from models.decoder import Decoder
from models.layers.moe import MoE
from models.layers.streams import LayerStreams
from models.linear.linear import Linear
from models.loaded_model import LoadedModel

# Parts of a layer that compute all rows, also in the last layer.
_BEFORE_FEED_FORWARD = frozenset(("attn_norm", "attn", "attn_post_norm", "beside", "laurel", "streams"))


@dataclass(frozen=True, slots=True)
class _Experts:
    num_experts: int
    num_chosen: int  # experts that each row is routed to
    num_bytes: int  # bytes of one expert

    def read_bytes(self, num_rows: int) -> float:
        """Return the expected bytes of expert weights that `num_rows` rows read under even routing."""
        is_idle = (1 - self.num_chosen / self.num_experts) ** num_rows
        return self.num_experts * (1 - is_idle) * self.num_bytes


@dataclass(frozen=True, slots=True)
class _Attention:
    """Cost of the attention layers that share a window."""

    window: int  # 0: all positions
    is_chunked: bool
    bytes_per_position: int  # bytes of keys and values
    flops_per_position: int  # for each position that a row sees

    def first_seen(self, position: int) -> int:
        """Return the first position that the row at `position` attends to."""
        if not self.window:
            return 0
        return position // self.window * self.window if self.is_chunked else max(0, position - self.window + 1)

    def num_seen(self, start: int, end: int) -> int:
        """Return how many positions rows start..end - 1 attend to, including themselves."""
        return self._num_seen_before(end) - self._num_seen_before(start)

    def of_rows(self, start: int, end: int) -> tuple[int, int]:
        """Return the bytes and FLOPs of the rows start..end - 1 of a sequence."""
        num_read = end - self.first_seen(start)
        return num_read * self.bytes_per_position, self.num_seen(start, end) * self.flops_per_position

    def _num_seen_before(self, end: int) -> int:
        if not self.window:
            return _triangle(end)
        if self.is_chunked:
            return end // self.window * _triangle(self.window) + _triangle(end % self.window)
        return _triangle(end) - _triangle(max(0, end - self.window))


def _triangle(number: int) -> int:
    """Return 1 + 2 + ... + number."""
    return number * (number + 1) // 2


@dataclass(frozen=True, slots=True)
class _Modules:
    """Cost of modules that compute the same rows, without attention."""

    num_bytes: int  # bytes of all weights but the experts'
    flops_per_row: int
    experts: list[_Experts]

    def read_bytes(self, num_rows: int) -> float:
        """Return the expected bytes of weights that `num_rows` rows read."""
        return self.num_bytes + sum(each.read_bytes(num_rows) for each in self.experts)


def model_work(model: LoadedModel) -> "ModelWork | None":
    """Return the ModelWork of a model; None for transformers' model code, whose structure is not known."""
    return ModelWork(model, model.decoder) if isinstance(model.decoder, Decoder) else None


class ModelWork:
    """Estimates the work of step plans on one model, whose sizes are read once."""

    def __init__(self, model: LoadedModel, decoder: Decoder) -> None:
        every, late = _by_rows(decoder)
        self._every, self._late = _cost(every), _cost(late)
        self._head_bytes = num_bytes([decoder.head])
        self._head_flops = 2 * model.vocab_size * (decoder.spec.embedding_size or decoder.spec.hidden_size)
        own = list(zip(decoder.mixers, model.cache_layout.layers, strict=True))
        readers = {
            index: (layer.attention, model.cache_layout.layers[decoder.mixer_indices(index).start])
            for index, layer in enumerate(decoder.spec.layers)
            if layer.kv_layer is not None
        }
        early = [each for index, each in readers.items() if index < decoder.num_caching]
        attention = _attention_of([*own, *early], decoder.spec.index_topk)
        self._full = [each for each in attention if not each.window]
        self._windows = [each for each in attention if each.window]
        # Of layers that compute rows with logits alone
        self._late_attention = _attention_of([each for index, each in readers.items() if index >= decoder.num_caching])
        self._written_per_row = sum(layout.position_bytes for _, layout in own if isinstance(layout, KVLayout))
        self._state_bytes = model.cache_layout.state_bytes

    @property
    def position_cost(self) -> float:
        """FLOPs that each context position adds to a row, relative to the row's other FLOPs."""
        return sum(attention.flops_per_position for attention in self._full) / max(1, self._every.flops_per_row)

    @property
    def row_cost(self) -> float:
        """FLOPs of a row of logits, with what is computed for such rows alone, relative to a row's FLOPs in general."""
        return (self._late.flops_per_row + self._head_flops) / max(1, self._every.flops_per_row)

    def of(self, plan: StepPlan) -> StepWork:
        """Estimate the work of a plan's forward pass."""
        num_rows = num_logits = num_read = num_seen = 0
        read_bytes, flops = 0.0, 0
        for _, start, num_new, num_draft, needs_logits in plan.items:  # each step, for each sequence: few calls
            end = start + num_new
            num_rows += num_new
            num_read += end
            num_seen += num_new * start + num_new * (num_new + 1) // 2
            for attention in self._windows:
                of_rows = attention.of_rows(start, end)
                read_bytes, flops = read_bytes + of_rows[0], flops + of_rows[1]
            if needs_logits:  # logits of prompts, where requested, are computed after the pass
                num_logits += num_draft + 1
                for attention in self._late_attention:
                    of_rows = attention.of_rows(end - num_draft - 1, end)
                    read_bytes, flops = read_bytes + of_rows[0], flops + of_rows[1]
        for attention in self._full:
            read_bytes += num_read * attention.bytes_per_position
            flops += num_seen * attention.flops_per_position
        read_bytes += self._every.read_bytes(num_rows)
        flops += num_rows * self._every.flops_per_row
        if num_logits:
            read_bytes += self._late.read_bytes(num_logits) + self._head_bytes
            flops += num_logits * (self._late.flops_per_row + self._head_flops)
        state_bytes = len(plan.items) * self._state_bytes
        written = num_rows * self._written_per_row + state_bytes
        return StepWork(round(read_bytes) + state_bytes, written, flops)


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


def _cost(modules: list[nn.Module]) -> _Modules:
    inner = [each for module in modules for each in module.modules()]
    routed = [each for each in inner if isinstance(each, MoE)]
    of_experts = {id(each) for layer in routed for each in layer.experts.modules()}
    linears = [each for each in inner if isinstance(each, Linear) and id(each) not in of_experts]
    linears += [linear for layer in routed for linear in _chosen_linears(layer)]
    linears += [each.router for each in inner if isinstance(each, LayerStreams)]  # once more, to correct the streams
    experts = [
        _Experts(len(each.experts), each.router.spec.experts_per_token, num_bytes(each.experts[:1])) for each in routed
    ]
    return _Modules(
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
) -> list[_Attention]:
    """Return one _Attention for each kind of window in the layers. topk: positions that indexers choose."""
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
    return [_Attention(*window, *map(sum, zip(*costs, strict=True))) for window, costs in by_window.items()]


def num_bytes(modules: Iterable[nn.Module]) -> int:
    """Return the total bytes of the modules' parameters and buffers, counting shared tensors once."""
    tensors = {id(tensor): tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensors.values())
