"""Placement of an adapter's tensors in a decoder, by the rules for the checkpoint's own tensors."""

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Mapping

import torch

from models.adapters.stored import StoredAdapter, StoredPair, StoredWeight
from models.architecture.recurrence import GatedDeltaSpec
from models.errors import AdapterError
from models.families.name_map import Destination, NameMap
from models.families.transforms import transpose
from models.linear.adapters.adapter import LayerAdapter, LowRankPair
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.loaded_model import AdapterTargets

logger = logging.getLogger(__name__)

_WHOLE = ("embed", "head")  # modules that may be replaced as a whole
# Remedies in messages.
_OWN_BASE = "serve the model that it was trained with"
_MERGE = "merge the adapter into its base model and serve that"
_ROWS_AT_A_TIME = 4096  # rows of a weight that are in memory together, in fp32
# Largest difference of a copy of the base model's weights, relative to them: that of quantization to 3 bits.
_MAX_DIFFERENCE = 0.2


def place_adapter(stored: StoredAdapter, targets: AdapterTargets) -> dict[str, LayerAdapter]:
    """Return the adapter's changes to each module of the model, by the module's name, such as "layers.3.attn.qkv".

    Pairs for keys and values of layers that read another layer's change nothing, in PEFT either, and are left out; the
    log says so. Raises AdapterError, which names a tensor that belongs to no module or does not fit its module.
    """
    placer = _Placer(stored, targets)
    for pair in stored.pairs:
        placer.add_pair(pair)
    for weight in stored.weights:
        placer.add_weight(weight)
    if placer.num_without_effect:
        logger.info(
            "%s: %d tensors are for keys and values of layers that use another layer's; they change nothing",
            stored.source,
            placer.num_without_effect,
        )
    return placer.layers()


class _Placer:
    """Assigns an adapter's LoRA (A, B) pairs and whole weights to the modules of a model."""

    def __init__(self, stored: StoredAdapter, targets: AdapterTargets) -> None:
        self._stored = stored
        self._spec = targets.spec
        self._modules = targets.modules
        self._names = NameMap(targets.rules, None if self._spec is None else len(self._spec.layers), self._modules)
        self._pairs: dict[str, list[LowRankPair]] = defaultdict(list)
        self._weights: dict[str, torch.Tensor] = {}
        self.num_without_effect = 0  # pairs that were left out

    def layers(self) -> dict[str, LayerAdapter]:
        return {
            module: LayerAdapter(
                tuple(sorted(self._pairs.get(module, ()), key=lambda pair: pair.first)), self._weights.get(module)
            )
            for module in sorted({*self._pairs, *self._weights})
        }

    def add_pair(self, pair: StoredPair) -> None:
        for destination in self._destinations(pair.name, pair.target):
            if self._spec is not None and destination.is_of_shared_kv(self._spec):
                self.num_without_effect += 1
                continue
            module = self._linear(pair.name, destination)
            if pair.is_look_up != (destination.module == "embed"):
                raise self._refusal(pair.name, "belongs to another kind of layer in this model")
            first, count = module.rows(destination.shard)
            columns = module.in_features
            if pair.is_look_up:
                count, columns = columns, module.out_features
            b = self._rows(pair.b, destination)
            if pair.a.shape[1] != columns or len(b) != count:
                raise self._refusal(
                    pair.name,
                    f"is for a layer with {pair.a.shape[1]} inputs and {len(pair.b)} outputs; the model's layer has "
                    f"{columns} and {count}; {_OWN_BASE}",
                )
            vectors = []
            for vector in (pair.bias, pair.magnitude):
                vectors.append(None if vector is None else self._rows(vector.unsqueeze(1), destination).squeeze(1))
                if vectors[-1] is not None and len(vectors[-1]) != count:
                    raise self._refusal(pair.name, f"has a vector of {len(vectors[-1])} numbers; {count} are needed")
            placed = self._pairs[destination.module]
            if any(other.first < first + count and first < other.first + len(other.b) for other in placed):
                raise self._refusal(pair.name, "changes rows that another tensor changes, too")
            bias, magnitude = vectors
            placed_pair = LowRankPair(first, pair.a, b.contiguous(), pair.scale, bias)
            if magnitude is not None:
                gain = magnitude.to(torch.float32) / _adapted_lengths(module, placed_pair)
                placed_pair = dataclasses.replace(placed_pair, magnitude=magnitude, gain=gain)
            placed.append(placed_pair)

    def add_weight(self, stored: StoredWeight) -> None:
        for destination in self._destinations(stored.name, stored.target):
            if destination.module not in _WHOLE or destination.parameter != "weight":
                raise self._refusal(
                    stored.name,
                    "replaces a whole layer; of modules_to_save only lm_head and embed_tokens are supported",
                )
            module = self._linear(stored.name, destination)
            shape = [module.out_features, module.in_features]
            if list(stored.weight.shape) != shape:
                raise self._refusal(
                    stored.name,
                    f"has shape {list(stored.weight.shape)}, the model's layer {shape}; an adapter cannot add tokens; "
                    f"{_MERGE}",
                )
            if stored.is_copy:
                self._check_copy(stored, module)
            else:
                self._weights[destination.module] = stored.weight

    def _check_copy(self, stored: StoredWeight, module: Linear) -> None:
        difference = whole = 0.0  # squares of lengths
        for start in range(0, module.out_features, _ROWS_AT_A_TIME):
            given = stored.weight[start : start + _ROWS_AT_A_TIME].to(torch.float32)
            rows = module.read_rows(start, len(given)).cpu()
            whole += float(torch.linalg.vector_norm(rows)) ** 2
            difference += float(torch.linalg.vector_norm(given - rows)) ** 2
        if difference > _MAX_DIFFERENCE**2 * whole:
            raise self._refusal(stored.name, f"is not from the base model that is served; {_OWN_BASE}")

    def _destinations(self, name: str, target: str) -> tuple[Destination, ...]:
        destinations = self._names.destinations(target)
        if not destinations:
            raise self._refusal(name, f"belongs to no layer of this model that adapters can change; {_MERGE}")
        return destinations

    def _linear(self, name: str, destination: Destination) -> Linear:
        module = destination.module
        if ".experts." in module:
            raise self._refusal(name, f"belongs to an expert, which is not supported; {_MERGE}")
        layer = self._modules.get(module)
        if layer is None:
            raise self._refusal(name, f"belongs to a layer that this model does not have; {_OWN_BASE}")
        is_table = isinstance(layer, Embedding) and module not in _WHOLE
        if isinstance(layer, Linear) and destination.shard is not None and destination.shard not in layer.shards:
            raise self._refusal(name, f"belongs to a part of a layer that this model does not have; {_OWN_BASE}")
        if not isinstance(layer, Linear) or destination.parameter != "weight" or is_table:
            raise self._refusal(name, f"belongs to a part of the model for which adapters are not supported; {_MERGE}")
        spec = destination.layer_of(self._spec)
        recurrence = None if spec is None else spec.recurrence
        if isinstance(recurrence, GatedDeltaSpec) and ".attn." in module:
            # GGUF files of Qwen3.5 order value heads differently.
            if recurrence.tiles_key_heads and not self._stored.is_gguf:
                raise self._refusal(
                    name,
                    "belongs to a recurrent layer, and its order differs in this GGUF model; serve the safetensors",
                )
            if self._stored.is_gguf and not recurrence.tiles_key_heads:
                raise self._refusal(
                    name,
                    "belongs to a recurrent layer, and its order may differ in GGUF; use the adapter's PEFT folder",
                )
        return layer

    def _rows(self, tensor: torch.Tensor, destination: Destination) -> torch.Tensor:
        """Return a tensor [out, n] with its rows in the decoder's order."""
        if destination.transform is transpose:  # pairs are never transposed
            return tensor
        try:
            return destination.transformed(tensor, self._spec)
        except RuntimeError:  # rows that cannot be divided into heads; the caller compares shapes
            return tensor

    def _refusal(self, name: str, reason: str) -> AdapterError:
        return AdapterError(f"{self._stored.source}: tensor {name!r} {reason}")


def targets_of(stored: StoredAdapter) -> tuple[str, ...]:
    """Return the names of the base model's tensors that the adapter changes."""
    changed = [pair.target for pair in stored.pairs]
    return tuple(sorted({*changed, *(weight.target for weight in stored.weights if not weight.is_copy)}))


def num_bytes_of(layers: Mapping[str, LayerAdapter]) -> int:
    """Return the bytes of an adapter's tensors in memory."""
    tensors = [tensor for layer in layers.values() for tensor in layer.tensors()]
    tensors += [pair.gain for layer in layers.values() for pair in layer.pairs if pair.gain is not None]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _adapted_lengths(layer: Linear, pair: LowRankPair) -> torch.Tensor:
    """Return the L2 norms of the rows of W + scale * b a: [rows] fp32, on the CPU."""
    a = pair.a.to(torch.float32)
    lengths = torch.empty(len(pair.b))
    for start in range(0, len(pair.b), _ROWS_AT_A_TIME):
        b = pair.b[start : start + _ROWS_AT_A_TIME].to(torch.float32)
        rows = layer.read_rows(pair.first + start, len(b)).cpu()
        lengths[start : start + len(b)] = torch.linalg.vector_norm(rows + pair.scale * (b @ a), dim=1)
    return lengths
