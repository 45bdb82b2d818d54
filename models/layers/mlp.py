"""Feed-forward layers: gated (gate and up in one GEMM) and plain."""

from abc import abstractmethod

import torch
from torch import nn

from models.architecture.feed_forward import MLPSpec
from models.kernels.row_input import Prologue
from models.layers.activation import activation_of
from models.linear.linear import Linear
from models.linear.method import LinearMethod


class MLP(nn.Module):
    """Two matrices, and an activation between them, which is the prologue of the second."""

    def __init__(self, spec: MLPSpec, hidden_size: int, *, method: LinearMethod, dtype: torch.dtype) -> None:
        """dtype: of the intermediate rows, which are wide: rounding them costs less than moving them."""
        super().__init__()
        self.dtype = dtype
        self.activation = activation_of(spec)
        self.down = Linear(spec.intermediate_size, hidden_size, has_bias=spec.has_down_bias, method=method)

    @property
    @abstractmethod
    def linears(self) -> tuple[Linear, Linear]:
        """The linear layers before and after the activation."""

    def expand(self, x: torch.Tensor, norm: Prologue, adapter_slots: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply x [T, hidden] by the first matrix. Returns the intermediate rows that `contract` takes, [T, n].

        adapter_slots: as in Linear.forward.
        """
        inner: torch.Tensor = self.linears[0](x, norm, out_dtype=self.dtype, adapter_slots=adapter_slots)
        return inner

    def contract(
        self,
        inner: torch.Tensor,
        residual: torch.Tensor | None = None,
        out_dtype: torch.dtype | None = None,
        adapter_slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Apply the activation and the second matrix. Returns [T, hidden] in `out_dtype`, by default the residual's.

        residual: added, and used up. adapter_slots: as in Linear.forward.
        """
        hidden: torch.Tensor = self.down(
            inner, self.activation, residual=residual, out_dtype=out_dtype, adapter_slots=adapter_slots
        )
        return hidden

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        residual: torch.Tensor | None = None,
        adapter_slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return MLP(norm(x)) (+ residual, used up; it may be x): [T, hidden]. adapter_slots: as in Linear.forward."""
        return self.contract(self.expand(x, norm, adapter_slots), residual, x.dtype, adapter_slots)


class PlainMLP(MLP):
    def __init__(self, spec: MLPSpec, hidden_size: int, *, method: LinearMethod, dtype: torch.dtype) -> None:
        super().__init__(spec, hidden_size, method=method, dtype=dtype)
        self.up = Linear(hidden_size, spec.intermediate_size, has_bias=spec.has_up_bias, method=method)

    @property
    def linears(self) -> tuple[Linear, Linear]:
        return self.up, self.down


class GatedMLP(MLP):
    def __init__(self, spec: MLPSpec, hidden_size: int, *, method: LinearMethod, dtype: torch.dtype) -> None:
        super().__init__(spec, hidden_size, method=method, dtype=dtype)
        shards = {"gate": spec.intermediate_size, "up": spec.intermediate_size}
        self.gate_up = Linear(hidden_size, shards, has_bias=spec.has_up_bias, method=method)

    @property
    def linears(self) -> tuple[Linear, Linear]:
        return self.gate_up, self.down


def make_mlp(spec: MLPSpec, hidden_size: int, *, method: LinearMethod, dtype: torch.dtype) -> MLP:
    kind = GatedMLP if spec.is_gated else PlainMLP
    return kind(spec, hidden_size, method=method, dtype=dtype)
