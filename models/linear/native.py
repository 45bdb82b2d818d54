"""Linear layers on the native CPU kernels: weights in the kernels' layout, in the checkpoint's own format."""

from collections.abc import Mapping

import torch

from models.checkpoints.base import StoredTensor
from models.errors import CheckpointError
from models.kernels.arena import HugePageArena
from models.kernels.linear import PackedLinear
from models.kernels.packed_weight import NativeWeight, NotFiniteError, WeightFormat, pack_weight
from models.linear.prologue import Prologue
from models.linear.scheme import LinearLayer, ParameterSpec, Rearrange
from models.linear.storage import Quantized
from models.quant.scaled_weight import pack_quantized


class Packed:
    """Holds the weights of one layer; not shared.

    A weight is packed when it comes, and neither the checkpoint's form of it nor a dequantized one is kept. The packed
    bytes are buffers of the layer, so that torch knows of them.
    """

    name = "packed"
    bias_dtype = torch.float32

    def __init__(self, formats: Mapping[str | None, WeightFormat | Quantized], arena: HugePageArena) -> None:
        """formats: of each shard in the order of their rows, or of the whole layer (None).

        arena: where the packed weights go, shared by the model's layers.
        """
        self._arena = arena
        self._formats = dict(formats)
        self._weights: dict[str | None, NativeWeight] = {}
        self.multiply: PackedLinear | None = None  # after `finish`

    def parameters(self, in_features: int, out_features: int) -> tuple[ParameterSpec, ...]:  # noqa: ARG002
        return ()

    def load(self, layer: LinearLayer, shard: str | None, tensor: StoredTensor, rearrange: Rearrange) -> None:
        self._hold(layer, shard, self._packed(self._formats[shard], layer, shard, tensor, rearrange))

    @property
    def weights(self) -> Mapping[str | None, NativeWeight]:
        """Of each shard that has come."""
        return self._weights

    @property
    def shards(self) -> list[str | None]:
        """In the order of their rows."""
        return list(self._formats)

    def take(self, layer: LinearLayer, weights: Mapping[str | None, NativeWeight]) -> None:
        """Weights that were packed earlier, in place of `load` and `finish`."""
        for shard in self._formats:
            self._hold(layer, shard, weights[shard])
        self.finish(layer)

    def _hold(self, layer: LinearLayer, shard: str | None, weight: NativeWeight) -> None:
        layer.register_buffer(f"packed_{shard or 'weight'}", weight.data, persistent=False)
        self._weights[shard] = weight

    def _packed(
        self,
        held: WeightFormat | Quantized,
        layer: LinearLayer,
        shard: str | None,
        tensor: StoredTensor,
        rearrange: Rearrange,
    ) -> NativeWeight:
        if isinstance(held, Quantized):
            return pack_quantized(held.take(tensor, rearrange), arena=self._arena)
        if held is WeightFormat.BF16:
            assert tensor.read is not None
            raw = tensor.read(torch.bfloat16)
        else:
            assert tensor.read_packed is not None
            raw = tensor.read_packed()
        rows = layer.rows(shard)[1]
        try:
            return pack_weight(held, rearrange(raw).contiguous(), rows, layer.in_features, arena=self._arena)
        except NotFiniteError:
            raise CheckpointError(
                f"{tensor.file}: {tensor.name!r} holds scales that are no finite numbers; fetch the file again"
            ) from None

    def finish(self, layer: LinearLayer) -> None:
        biases = None
        if layer.bias is not None:
            biases = [layer.bias.narrow(0, *layer.rows(shard)) for shard in self._formats]
        self.multiply = PackedLinear([self._weights[shard] for shard in self._formats], biases)

    def apply(
        self,
        x: torch.Tensor,
        layer: LinearLayer,  # noqa: ARG002
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        assert self.multiply is not None, "finish() comes first"
        return self.multiply(x, prepare=prologue.row_input, residual=residual, out=residual, out_dtype=out_dtype)

    def look_up(self, ids: torch.Tensor, layer: LinearLayer) -> torch.Tensor:  # noqa: ARG002
        return self._weights[None].look_up(ids, torch.float32)

    def format_of(self, shard: str | None) -> str:
        held = self._formats[shard if shard in self._formats else None]
        return held.name if isinstance(held, Quantized) else held.name.lower()
