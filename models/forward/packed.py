"""PackedForward: last hidden states of whole texts, by any decoder or encoder without recurrent layers."""

from collections.abc import Sequence

import torch

from models.architecture.attention import AttentionSpec
from models.attention.base import AttentionBackend
from models.decoder import Decoder
from models.forward.packed_batch import BLOCK_SIZE, num_blocks_of, pack_texts

_GROWTH_BLOCKS = 64


class PackedForward:
    """Keys and values of a layer are used by that layer alone, so layers of one shape share memory, which grows to what
    the largest batch needs."""

    def __init__(self, decoder: Decoder, backend: AttentionBackend, device: torch.device) -> None:
        assert all(isinstance(mixer, AttentionSpec) for mixer in decoder.mixers)
        self._decoder = decoder
        self._backend = backend
        self._device = device
        self._num_blocks = 0
        self._kv: list[torch.Tensor] = []  # one a layer

    def reserve(self, num_blocks: int) -> None:
        """Have memory for `num_blocks`."""
        if num_blocks <= self._num_blocks:
            return
        self._num_blocks = -(-num_blocks // _GROWTH_BLOCKS) * _GROWTH_BLOCKS
        self._kv = []
        by_shape: dict[tuple[int, ...], torch.Tensor] = {}
        for spec in self._decoder.spec.attention_specs:
            shape = self._backend.kv_shape(spec, self._num_blocks, BLOCK_SIZE)
            if shape not in by_shape:
                by_shape[shape] = torch.zeros(shape, dtype=self._decoder.dtype, device=self._device)
            self._kv.append(by_shape[shape])

    def states(
        self,
        token_ids: Sequence[int],
        lengths: Sequence[int],
        token_type_ids: Sequence[int] | None = None,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The last hidden states of all tokens, or of `rows` ([n] int64), after the final norm: [n, hidden], fp32."""
        self.reserve(num_blocks_of(lengths))
        all_rows = torch.arange(len(token_ids), device=self._device) if rows is None else rows
        batch = pack_texts(
            token_ids,
            lengths,
            num_groups=len(self._decoder.layer_groups),
            output_rows=all_rows,
            device=self._device,
            token_type_ids=token_type_ids,
        )
        with torch.inference_mode():
            return self._decoder.final_states(self._decoder(batch, self._kv, rows))
