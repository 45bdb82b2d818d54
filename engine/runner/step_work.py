"""ModelWork: estimates the FLOPs and memory traffic of a step's forward pass, from the plan and the model's sizes.

The estimate is a lower bound for any implementation. Each stored weight is read once per step, and as many experts as
even routing would select. Keys and values are read once per sequence. Layers that only read what earlier ones have
cached count for rows with logits alone, and their attention not at all. Where an indexer chooses positions, its keys
are read, and of keys and values as many positions as are chosen. Each weight and row, and each key or value
element that a row attends to, takes a multiply and an add. Activations count nothing, since they stay in caches; nor
does the arithmetic of recurrences, which is small next to their projections. Time over work shows how well the hardware
is used (roofline model: S. Williams, A. Waterman, D. Patterson, 2009).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from engine.scheduling.plan import StepPlan, StepWork
from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import KVLayout
from models.attention.base import INDEX_PART
from models.decoder import Decoder
from models.layers.moe import MoE
from models.linear.linear import Linear
from models.loaded_model import LoadedModel


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
        """Return the first position that the row at `position` attends to. Only for layers with a window."""
        return position // self.window * self.window if self.is_chunked else max(0, position - self.window + 1)

    def num_seen(self, start: int, end: int) -> int:
        """Return how many positions rows start..end - 1 attend to, including themselves. Only with a window."""
        return self._num_seen_before(end) - self._num_seen_before(start)

    def _num_seen_before(self, end: int) -> int:
        if self.is_chunked:
            return end // self.window * _triangle(self.window) + _triangle(end % self.window)
        return _triangle(end) - _triangle(max(0, end - self.window))


def _triangle(number: int) -> int:
    """Return 1 + 2 + ... + number."""
    return number * (number + 1) // 2


def model_work(model: LoadedModel) -> "ModelWork | None":
    """Return the ModelWork of a model; None for transformers' model code, whose structure is not known."""
    return ModelWork(model, model.decoder) if isinstance(model.decoder, Decoder) else None


class ModelWork:
    """Estimates the work of step plans on one model, whose sizes are read once."""

    def __init__(self, model: LoadedModel, decoder: Decoder) -> None:
        routed = [each for each in decoder.layers.modules() if isinstance(each, MoE)]
        self._experts = [
            _Experts(len(each.experts), each.router.spec.experts_per_token, num_bytes(each.experts[:1]))
            for each in routed
        ]
        of_experts = {id(each) for layer in routed for each in layer.experts.modules()}
        caching, reading = decoder.layers[: decoder.num_caching], decoder.layers[decoder.num_caching :]
        dense, later = (
            [each for each in layers.modules() if isinstance(each, Linear) and id(each) not in of_experts]
            for layers in (caching, reading)
        )
        chosen = [linear for layer in routed for linear in _chosen_linears(layer)]
        self._dense_bytes = num_bytes([caching]) - sum(num_bytes([layer.experts]) for layer in routed)
        self._flops_per_row = _num_flops((*dense, *chosen))
        # Of the output layer, and of layers before it that only read what others have cached
        self._output_bytes = num_bytes([reading, decoder.head])
        self._flops_per_output = _num_flops(later) + 2 * model.vocab_size * (
            decoder.spec.embedding_size or decoder.spec.hidden_size
        )
        attention = _attention_of(model, decoder.spec.index_topk)
        self._full = [each for each in attention if not each.window]
        self._windows = [each for each in attention if each.window]
        self._written_per_row = sum(each.bytes_per_position for each in attention)
        self._state_bytes = model.cache_layout.state_bytes

    @property
    def position_cost(self) -> float:
        """FLOPs that each context position adds to a row, relative to the row's other FLOPs."""
        return sum(attention.flops_per_position for attention in self._full) / self._flops_per_row

    def of(self, plan: StepPlan) -> StepWork:
        """Estimate the work of a plan's forward pass."""
        num_rows = num_logits = num_read = num_seen = 0
        read_bytes, flops = float(self._dense_bytes), 0
        for _, start, num_new, num_draft, needs_logits in plan.items:  # each step, for each sequence: few calls
            end = start + num_new
            num_rows += num_new
            if needs_logits:  # logits of prompts, where requested, are computed after the pass
                num_logits += num_draft + 1
            num_read += end
            num_seen += num_new * start + num_new * (num_new + 1) // 2
            for attention in self._windows:
                read_bytes += (end - attention.first_seen(start)) * attention.bytes_per_position
                flops += attention.num_seen(start, end) * attention.flops_per_position
        for attention in self._full:
            read_bytes += num_read * attention.bytes_per_position
            flops += num_seen * attention.flops_per_position
        read_bytes += sum(layer.read_bytes(num_rows) for layer in self._experts)
        flops += num_rows * self._flops_per_row
        if num_logits:
            read_bytes += self._output_bytes
            flops += num_logits * self._flops_per_output
        state_bytes = len(plan.items) * self._state_bytes
        written = num_rows * self._written_per_row + state_bytes
        return StepWork(round(read_bytes) + state_bytes, written, flops)


def _chosen_linears(layer: MoE) -> list[Linear]:
    """Return the linear layers of as many experts as each row is routed to."""
    chosen = layer.experts[: layer.router.spec.experts_per_token]
    return [each for each in chosen.modules() if isinstance(each, Linear)]


def _num_flops(linears: Iterable[Linear]) -> int:
    """Return the FLOPs of one row."""
    return 2 * sum(linear.in_features * linear.out_features for linear in linears)


def _attention_of(model: LoadedModel, topk: int | None) -> list[_Attention]:
    """Return one _Attention for each kind of window in the model. topk: positions that indexers choose."""
    by_window: dict[
        tuple[int, bool], list[tuple[int, int]]
    ] = {}  # bytes of a position, and FLOPs for each that is seen
    for spec, layout in zip(model.decoder.mixers, model.cache_layout.layers, strict=True):
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
