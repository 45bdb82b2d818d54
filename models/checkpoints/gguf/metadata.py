"""GGUFMetadata: a GGUF file's metadata about its architecture, which families turn into fields of a config.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from models.checkpoints.base import StoredTensor
from models.checkpoints.gguf.array import GGUFArray
from models.config.hf_config import HFConfig, quote_value
from models.errors import CheckpointError, UnsupportedModelError

_MAX_LISTED = 1 << 12  # items of an array: a few for each layer, or one for each dimension of a head
# Keys that change what is computed, with their neutral values: a family that did not read such a key would give wrong
# answers for any other value. Keys that only inform are not here.
_DECISIVE: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "activation_sparsity_scale",
            "attention.indexer.top_k",
            "attention.clamp_kqv",
            "attention.key_length_mla",
            "attention.kv_lora_rank",
            "attention.max_alibi_bias",
            "attention.q_lora_rank",
            "attention.scale",
            "attention.sliding_window",
            "attention.temperature_scale",
            "attn_logit_softcapping",
            "expert_count",
            "expert_shared_count",
            "final_logit_softcapping",
            "leading_dense_block_count",
            "rope.freq_base_swa",
            "router_logit_softcapping",
            "swin_norm",
            "use_parallel_residual",
        ),
        (0,),
    ),
    **dict.fromkeys(
        (
            "attention.output_scale",
            "embedding_scale",
            "expert_gating_func",  # 1 is softmax
            "expert_group_count",
            "expert_weights_scale",
            "interleave_moe_layer_step",
            "logit_scale",
            "moe_every_n_layers",
            "residual_scale",
            "rope.scaling.factor",
        ),
        (0, 1),
    ),
    "attention.causal": (True,),
    "rope.scaling.type": ("none",),
}


@dataclass(frozen=True, slots=True)
class GGUFMetadata(HFConfig):
    """Metadata under the architecture's prefix, with HFConfig's getters, and the file's tensors.

    Keys are without the prefix: "embedding_length". A size or scale of 0 means that there is none; `size` and `scale`
    return None for it.
    """

    tensors: Mapping[str, StoredTensor] = field(kw_only=True)

    def size(self, name: str) -> int | None:
        return self.integer(name) if self.raw(name) else None

    def scale(self, name: str) -> float | None:
        return self.number(name) if self.raw(name) else None

    def values(self, tensor: str) -> list[float] | None:
        """Return the numbers of a tensor that holds metadata, or None if the file does not have it."""
        stored = self.tensors.get(tensor)
        if stored is None or stored.read is None:
            return None
        if len(stored.shape) != 1 or stored.shape[0] > _MAX_LISTED:
            raise CheckpointError(
                f"{stored.file}: {tensor} has shape {list(stored.shape)}; it must be a list of up to {_MAX_LISTED} "
                "numbers; fetch the file again"
            )
        return stored.read(torch.float32).tolist()

    def refuse_unread(self) -> None:
        """Raise UnsupportedModelError for keys that change what is computed and were not read."""
        for name, value in self.fields.items():
            if name not in self.reads and value not in _DECISIVE.get(name, (value,)):
                raise UnsupportedModelError(
                    f"{self.source}: {name} is {quote_value(value)}, which is not supported for this architecture"
                )


def gguf_metadata(
    architecture: str, metadata: Mapping[str, Any], tensors: Mapping[str, StoredTensor], path: object
) -> GGUFMetadata:
    """Select the metadata of `architecture`, the file's general.architecture."""
    prefix = architecture + "."
    own = {key.removeprefix(prefix): _plain(value) for key, value in metadata.items() if key.startswith(prefix)}
    return GGUFMetadata(own, f"{path}, {architecture}.*", tensors=tensors)


def _plain(value: Any) -> Any:
    """Convert metadata arrays to lists, except arrays that are longer than any list that families read."""
    return value.values() if isinstance(value, GGUFArray) and len(value) <= _MAX_LISTED else value
