"""Inputs of layers besides the residual stream (LayerInputSpec): what makes them, and the sublayer that adds them."""

import torch
from torch import nn

from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerInputSpec
from models.compute import ComputeConfig
from models.kernels.row_input import IDENTITY
from models.layers.activation import activation_of
from models.layers.norm import Norm
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.linear.method import LinearMethod


class LayerInputs(nn.Module):
    """Makes the inputs of all layers from the tokens and their embeddings."""

    def __init__(
        self, spec: LayerInputSpec, num_layers: int, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod
    ) -> None:
        super().__init__()
        self._dtype = compute.dtype
        self._shape = (num_layers, spec.size)
        self._vocab_size = spec.vocab_size
        self._hidden_scale, self._table_scale = hidden_size**-0.5, spec.size**0.5
        self.table = Embedding(spec.vocab_size, num_layers * spec.size, method=method)
        self.project = Linear(hidden_size, num_layers * spec.size, has_bias=False, method=method)
        self.norm = Norm(spec.norm, spec.size)

    def forward(
        self, token_ids: torch.Tensor, embedded: torch.Tensor, adapter_slots: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the inputs of all layers, [T, layers, size] in the dtype of activations.

        token_ids: [T] int64. embedded: [T, hidden], their scaled embeddings. adapter_slots: [T] int32, or None.
        """
        projected = self.project(embedded, out_dtype=torch.float32, adapter_slots=adapter_slots)
        normed = self.norm((projected * self._hidden_scale).unflatten(1, self._shape))
        rows = self.table.look_up(token_ids.masked_fill(token_ids >= self._vocab_size, 0))
        looked_up = rows.to(torch.float32).unflatten(1, self._shape) * self._table_scale
        return ((normed + looked_up) * 2**-0.5).to(self._dtype)


class LayerInput(nn.Module):
    """The sublayer of a layer's own input p: out(act(gate x) * p). Its result passes `norm` before it is added."""

    def __init__(self, spec: LayerInputSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        self._dtype = compute.dtype
        self._size = spec.size
        self.gate = Linear(hidden_size, spec.size, has_bias=False, method=method)
        self.out = Linear(spec.size, hidden_size, has_bias=False, method=method)
        self.norm = Norm(spec.norm, hidden_size)
        self._activation = activation_of(MLPSpec(spec.size, spec.activation, is_gated=True))
        self._copy_heads = compute.ops.copy_heads(spec.size)

    def forward(
        self,
        x: torch.Tensor,
        layer_input: torch.Tensor,
        residual: torch.Tensor | None = None,
        adapter_slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return out(act(gate x) * layer_input) (+ residual, overwritten; may be x): [T, hidden].

        layer_input: [T, size], whose rows may be strided. adapter_slots: [T] int32, or None.
        """
        gate = self.gate(x, IDENTITY, out_dtype=self._dtype, adapter_slots=adapter_slots)
        rows = gate.new_empty(len(gate), 2, self._size)  # the gate and p, as a gated MLP has them
        self._copy_heads(gate.unsqueeze(1), rows[:, :1])
        self._copy_heads(layer_input.unsqueeze(1), rows[:, 1:])
        hidden: torch.Tensor = self.out(
            rows.flatten(1), self._activation, residual=residual, adapter_slots=adapter_slots
        )
        return hidden
