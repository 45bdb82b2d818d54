"""Several residual streams (StreamsSpec): how they begin and end, and how a layer predicts and corrects them."""

import torch
from torch import nn

from models.architecture.layer import StreamsSpec
from models.layers.norm import Norm
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod

_SMALLEST_SQUARE = 1e-5  # a mean of squares is at least this where it divides


class Streams(nn.Module):
    """Makes all streams from the embedded tokens, and the hidden states from all streams.

    `expand` and `merge` have a square matrix for each stream but the first.
    """

    def __init__(self, spec: StreamsSpec, hidden_size: int, *, method: LinearMethod) -> None:
        super().__init__()

        def matrices() -> nn.ModuleList:
            return nn.ModuleList(
                Linear(hidden_size, hidden_size, has_bias=False, method=method) for _ in range(spec.count - 1)
            )

        self.expand, self.merge = matrices(), matrices()

    def begin(self, x: torch.Tensor, adapter_slots: torch.Tensor | None) -> torch.Tensor:
        """Return the streams [T, count, hidden] of embedded tokens x [T, hidden]."""
        others = [matrix(x, adapter_slots=adapter_slots) for matrix in self.expand]
        return torch.stack((x, *(_with_length_of(x, other) for other in others)), dim=1)

    def end(self, x: torch.Tensor, adapter_slots: torch.Tensor | None) -> torch.Tensor:
        """Return the hidden states [T, hidden] of streams x [T, count, hidden]."""
        first, *others = (stream.contiguous() for stream in x.unbind(dim=1))
        others = [matrix(other, adapter_slots=adapter_slots) for matrix, other in zip(self.merge, others, strict=True)]
        return torch.stack((first, *(_with_length_of(first, other) for other in others)), dim=1).mean(dim=1)


class LayerStreams(nn.Module):
    """Predicts a layer's streams before it computes on the active one, and corrects them after.

    Own parameter: `scale` [hidden]. In torch, since the matrices are tiny.
    """

    def __init__(self, spec: StreamsSpec, hidden_size: int, *, method: LinearMethod) -> None:
        super().__init__()
        self.active, self._count = spec.active, spec.count
        self.router_norm = Norm(spec.norm, hidden_size)
        self.router = Linear(hidden_size, spec.count, has_bias=False, method=method)
        self.predict_by = Linear(spec.count, spec.count**2, has_bias=False, method=method)
        self.correct_by = Linear(spec.count, spec.count, has_bias=False, method=method)
        self.scale = empty_parameter((hidden_size,), torch.float32)
        self._is_scaled = spec.is_scaled

    def predict(self, x: torch.Tensor, adapter_slots: torch.Tensor | None) -> torch.Tensor:
        """Return the predicted streams [T, count, hidden] for streams x."""
        routed = self._routed(x[:, self.active], adapter_slots)
        # [T, i, j]: how much of stream j stream i gets
        parts = self.predict_by(routed, adapter_slots=adapter_slots).unflatten(1, (self._count, self._count))
        return x + torch.bmm(parts.to(x.dtype), x)

    def correct(
        self, predicted: torch.Tensor, computed: torch.Tensor, adapter_slots: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the corrected streams [T, count, hidden]. computed: [T, hidden], by the layer on the active one."""
        shares = self.correct_by(self._routed(computed, adapter_slots), adapter_slots=adapter_slots) + 1.0
        change = computed - predicted[:, self.active]
        return predicted + shares.to(change.dtype).unsqueeze(2) * change.unsqueeze(1)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """Return the active one of streams x, scaled, as `layer_input` reads it: [T, hidden]."""
        active = x[:, self.active].contiguous()
        return (active * self.scale).to(x.dtype) if self._is_scaled else active

    def _routed(self, x: torch.Tensor, adapter_slots: torch.Tensor | None) -> torch.Tensor:
        rows = self.router_norm(x) / x.shape[-1]
        return torch.tanh(self.router(rows, out_dtype=torch.float32, adapter_slots=adapter_slots))


def _with_length_of(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return rows of `other`, scaled to the root mean square of x's rows; both are [T, hidden]."""
    target, square = (rows.to(torch.float32).square().mean(dim=-1, keepdim=True) for rows in (x, other))
    return (other * target.sqrt() * square.clamp_min(_SMALLEST_SQUARE).rsqrt()).to(x.dtype)
