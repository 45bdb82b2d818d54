"""Weights of transformers' models: names of tensors as transformers maps them, and reading of what it computes itself.

transformers renames tensors and merges some, such as experts'. Tensors of headrace's layers are read by the
loader, and transformers gets stand-ins for them, so that it checks all names and shapes.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from models.checkpoints.base import Checkpoint, StoredTensor
from models.errors import CheckpointError, shorten_error
from models.transformers_backend.config import FOREIGN_ERRORS, ForeignModel
from models.transformers_backend.interface import PAGED
from models.transformers_backend.linears import ReplaceableLayers


@dataclass(frozen=True, slots=True)
class PlacedTensors:
    """A checkpoint's tensors by who reads them.

    layers: layers that headrace computes, whose tensors the checkpoint has as they are. own: their
    tensors, by the parameter's name in the model. others: tensors that transformers reads, by their names in the file.
    """

    layers: ReplaceableLayers
    own: Mapping[str, StoredTensor]
    others: Mapping[str, StoredTensor]


def make_skeleton(foreign: ForeignModel, dtype: torch.dtype) -> PreTrainedModel:
    """Make a model without memory for its weights."""
    with torch.device("meta"):
        return foreign.model_class._from_config(foreign.config, attn_implementation=PAGED, dtype=dtype).eval()


def place_tensors(skeleton: PreTrainedModel, checkpoint: Checkpoint, layers: ReplaceableLayers) -> PlacedTensors:
    """Find the tensors of the layers that headrace can compute. skeleton: the model, with its own layers.

    Raises CheckpointError for tensors that cannot be read.
    """
    names = skeleton.state_dict()
    targets = _targets(skeleton, checkpoint, names)
    # A tied output layer with a tensor of its own may differ from the embedding; transformers decides.
    if f"{layers.tied_head}.weight" in targets or f"{layers.embedding}.weight" not in targets:
        layers = dataclasses.replace(layers, embedding=None, tied_head=None)
    candidates = [*layers.linears, *([] if layers.embedding is None else [layers.embedding])]
    found = {name for name in candidates if f"{name}.weight" in targets}
    parts = {f"{name}.{part}" for name in found for part in ("weight", "bias")}
    own = {target: tensor for target, tensor in targets.items() if target in parts}
    linears = tuple(name for name in layers.linears if name in found)
    kept = dataclasses.replace(layers, linears=linears)
    read_here = {tensor.name for tensor in own.values()}
    unused = {tensor.name for name, tensor in targets.items() if tensor.may_be_unused and name not in names}
    others = {name: each for name, each in checkpoint.tensors.items() if name not in read_here | unused}
    for tensor in (*own.values(), *others.values()):
        if tensor.read is None and (tensor.name in read_here or tensor.read_stored is None):
            raise CheckpointError(
                f"{tensor.file}: {tensor.name!r} is stored as {tensor.format}, which is not supported here; check that "
                "the configuration's quantization_config came with the weights"
            )
    return PlacedTensors(kept, own, others)


def _targets(
    skeleton: PreTrainedModel, checkpoint: Checkpoint, names: dict[str, torch.Tensor]
) -> dict[str, StoredTensor]:
    """Return the tensors that transformers would assign to a parameter as they are, by the parameter's name."""
    mapping = get_model_conversion_mapping(skeleton)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix = skeleton.base_model_prefix
    found = {}
    for name in sorted(checkpoint.tensors, key=dot_natural_key):  # as transformers does, since some rules have a state
        target, converted = rename_source_key(name, renamings, converters, prefix, names)
        if target not in names and name in names:
            target, converted = rename_source_key(name, [], [], prefix, names)
        if converted is None:
            found[name] = target
    return {found[name]: tensor for name, tensor in checkpoint.tensors.items() if name in found}  # in the files' order


class _StoredValue:
    """A tensor that transformers reads when it converts it."""

    def __init__(self, tensor: StoredTensor, dtype: torch.dtype) -> None:
        self._tensor = tensor
        self._dtype = dtype

    def __getitem__(self, _: object) -> torch.Tensor:
        if self._tensor.read_stored is not None:
            return self._tensor.read_stored()
        assert self._tensor.read is not None
        return self._tensor.read(self._dtype)


class _StandIn:
    """A tensor of one number that has the shape of a stored tensor."""

    def __init__(self, tensor: StoredTensor, dtype: torch.dtype) -> None:
        self._tensor = tensor
        self._dtype = dtype

    def __getitem__(self, _: object) -> torch.Tensor:
        return torch.zeros(1, dtype=self._dtype).expand(self._tensor.shape)


def read_model(foreign: ForeignModel, placed: PlacedTensors, dtype: torch.dtype, source: object) -> PreTrainedModel:
    """Read a model, with stand-ins for the tensors of headrace's layers. source: the folder, for messages.

    Raises CheckpointError if tensors do not fit the configuration.
    """
    transformers.utils.logging.disable_progress_bar()
    values: dict[str, Any] = {tensor.name: _StandIn(tensor, dtype) for tensor in placed.own.values()}
    values |= {name: _StoredValue(tensor, dtype) for name, tensor in placed.others.items()}
    try:
        model, found = foreign.model_class.from_pretrained(
            None,
            config=foreign.config,
            state_dict=values,
            dtype=dtype,
            attn_implementation=PAGED,
            output_loading_info=True,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise  # not a fault of the checkpoint
    except FOREIGN_ERRORS as error:
        raise CheckpointError(f"{source}: transformers cannot load it: {shorten_error(error)}") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if found[what]:
            some = ", ".join(sorted(map(str, found[what]))[:5])
            raise CheckpointError(
                f"{source}: {what.replace('_', ' ')} ({len(found[what])}): {some}; the weights do not fit the "
                "configuration; fetch the checkpoint again"
            )
    return model
