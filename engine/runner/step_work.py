"""ModelWork: the bytes that a step's forward pass moves and its operations, from the plan and the sizes of the model.

The least that any implementation must do: weights as they are stored, each once a step, and as many experts as even
routing would choose; keys and values that rows see, once a sequence; a multiply and an add for each weight and row, and
for each number of a key and value that a row sees. Activations stay in caches and count nothing; the recurrences'
arithmetic is small beside their projections. So time over work shows how well the machine was used, as far as that is
known without measuring it (S. Williams, A. Waterman, D. Patterson: Roofline, 2009).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from engine.scheduling.plan import StepPlan, StepWork
from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import KVLayout
from models.decoder import Decoder
from models.layers.moe import MoE
from models.linear.linear import Linear
from models.loaded_model import LoadedModel


@dataclass(frozen=True, slots=True)
class _Experts:
    num_experts: int
    num_chosen: int  # by each row
    num_bytes: int  # of one expert

    def read_bytes(self, num_rows: int) -> float:
        """Return the expected bytes that are read if each expert is as likely as any other."""
        is_idle = (1 - self.num_chosen / self.num_experts) ** num_rows
        return self.num_experts * (1 - is_idle) * self.num_bytes


@dataclass(frozen=True, slots=True)
class _Attention:
    """Layers that see the same positions."""

    window: int  # 0: all positions
    is_chunked: bool
    bytes_per_position: int  # keys and values
    flops_per_position: int  # for each position that a row sees

    def first_seen(self, position: int) -> int:
        """Return the first position that a row sees, with a window."""
        return position // self.window * self.window if self.is_chunked else max(0, position - self.window + 1)

    def num_seen(self, start: int, end: int) -> int:
        """Return the number of positions that rows at start..end - 1 see, with a window; each row sees itself."""
        return self._num_seen_before(end) - self._num_seen_before(start)

    def _num_seen_before(self, end: int) -> int:
        if self.is_chunked:
            return end // self.window * _triangle(self.window) + _triangle(end % self.window)
        return _triangle(end) - _triangle(max(0, end - self.window))


def _triangle(number: int) -> int:
    """1 + 2 + ... + number."""
    return number * (number + 1) // 2


def model_work(model: LoadedModel) -> "ModelWork | None":
    """Return the work of a model; None for a model of transformers, whose parts are not known."""
    return ModelWork(model, model.decoder) if isinstance(model.decoder, Decoder) else None


class ModelWork:
    """A model's sizes, read once."""

    def __init__(self, model: LoadedModel, decoder: Decoder) -> None:
        routed = [each for each in decoder.layers.modules() if isinstance(each, MoE)]
        self._experts = [
            _Experts(len(each.experts), each.router.spec.experts_per_token, num_bytes(each.experts[:1]))
            for each in routed
        ]
        of_experts = {id(each) for layer in routed for each in layer.experts.modules()}
        dense = [each for each in decoder.layers.modules() if isinstance(each, Linear) and id(each) not in of_experts]
        chosen = [linear for layer in routed for linear in _chosen_linears(layer)]
        self._dense_bytes = num_bytes([decoder.layers]) - sum(num_bytes([layer.experts]) for layer in routed)
        self._flops_per_row = 2 * sum(linear.in_features * linear.out_features for linear in (*dense, *chosen))
        self._head_bytes = num_bytes([decoder.head])
        self._head_flops_per_row = 2 * model.vocab_size * (decoder.spec.embedding_size or decoder.spec.hidden_size)
        attention = _attention_of(model)
        self._full = [each for each in attention if not each.window]
        self._windows = [each for each in attention if each.window]
        self._written_per_row = sum(each.bytes_per_position for each in attention)
        self._state_bytes = model.cache_layout.state_bytes

    @property
    def position_cost(self) -> float:
        """Operations that each position before a row adds to it, over the row's own."""
        return sum(attention.flops_per_position for attention in self._full) / self._flops_per_row

    def of(self, plan: StepPlan) -> StepWork:
        """Return the work of the plan's items."""
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
            read_bytes += self._head_bytes
            flops += num_logits * self._head_flops_per_row
        state_bytes = len(plan.items) * self._state_bytes
        written = num_rows * self._written_per_row + state_bytes
        return StepWork(round(read_bytes) + state_bytes, written, flops)


def _chosen_linears(layer: MoE) -> list[Linear]:
    """Return the linear layers of as many experts as a row goes through."""
    chosen = layer.experts[: layer.router.spec.experts_per_token]
    return [each for each in chosen.modules() if isinstance(each, Linear)]


def _attention_of(model: LoadedModel) -> list[_Attention]:
    """Return one _Attention for each kind of window."""
    by_window: dict[tuple[int, bool], list[tuple[AttentionSpec, int]]] = {}  # with the bytes of a position
    for spec, layout in zip(model.decoder.mixers, model.cache_layout.layers, strict=True):
        if isinstance(spec, AttentionSpec) and isinstance(layout, KVLayout):
            window = (spec.sliding_window or spec.chunk or 0, spec.chunk is not None)
            by_window.setdefault(window, []).append((spec, layout.position_bytes))
    return [
        _Attention(
            *window,
            bytes_per_position=sum(position_bytes for _, position_bytes in alike),
            flops_per_position=sum(2 * spec.num_heads * (spec.head_dim + spec.value_dim) for spec, _ in alike),
        )
        for window, alike in by_window.items()
    ]


def num_bytes(modules: Iterable[nn.Module]) -> int:
    """Return the bytes of all tensors, packed ones too, each once."""
    tensors = {id(tensor): tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensors.values())
