"""DecoderRotary: the rotary embeddings of a decoder's layers, computed once a step for all layers that share one."""

from collections.abc import Sequence
from typing import TypeVar

import torch

from models.architecture.layer import LayerSpec
from models.attention.rotary import RotaryEmbedding, rotary_embedding
from models.layers.rotary_frequencies import attention_factor, inverse_frequencies

_Each = TypeVar("_Each")


class DecoderRotary:
    """Rotary frequencies for each distinct pair (RopeSpec, query temperature) of the layers; `specs` lists the pairs.

    Not an nn.Module with buffers, since `to(dtype)` must never round the frequencies.
    """

    def __init__(self, layers: Sequence[LayerSpec]) -> None:
        of_layers = [(layer.rope, layer.query_temperature) for layer in layers]
        self.specs = [spec for spec in dict.fromkeys(of_layers) if spec != (None, None)]
        self.frequencies: list[torch.Tensor] = []
        self._spec_of_layer = [self.specs.index(spec) if spec in self.specs else None for spec in of_layers]

    def serve_context(self, max_len: int, device: torch.device) -> None:
        """Compute the frequencies for contexts of up to `max_len` tokens, on which some rotary scalings depend."""
        self.frequencies = [inverse_frequencies(rope, device, max_len) for rope, _ in self.specs]

    def embeddings(self, positions: torch.Tensor) -> list[RotaryEmbedding]:
        """Return a step's rotary embeddings, one for each of `specs`. positions: [T], of the step's rows."""
        return [
            rotary_embedding(positions, frequencies, attention_factor(rope), temperature)
            for frequencies, (rope, temperature) in zip(self.frequencies, self.specs, strict=True)
        ]

    def of_layer(self, index: int, of_specs: Sequence[_Each]) -> _Each | None:
        """Return the one of `of_specs`, such as a step's embeddings, that layer `index` uses; None without rotation."""
        spec = self._spec_of_layer[index]
        return None if spec is None else of_specs[spec]
