"""Loading of models that transformers' code computes, with linear layers of headrace's own."""

import re
from collections import Counter

import torch
from torch import nn
from transformers import PreTrainedModel

from models.compute import ComputeConfig
from models.decoder import allocate_module
from models.families.name_map import Destination
from models.linear.dense import DTYPE_NAMES, DenseLinearMethod
from models.linear.linear import Linear
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedWeights
from models.loading.assign import Assignment, load_weights
from models.loading.methods import choose_layer_methods
from models.loading.weights_note import format_of, weights_note
from models.progress import ProgressReport
from models.system.memory import not_enough_memory, obtainable_memory_bytes, require_memory
from models.transformers_backend.decoder import TransformersDecoder
from models.transformers_backend.independence import check_independence
from models.transformers_backend.linears import ForeignLinear, adapter_modules, replace_layers
from models.transformers_backend.open import OpenedTransformersModel
from models.transformers_backend.weights import PlacedTensors, make_skeleton, place_tensors, read_model

_MAX_LISTED = 4  # kinds of parameters in the note


def build_foreign_decoder(
    opened: OpenedTransformersModel, compute: ComputeConfig, weights: WeightOptions, progress: ProgressReport
) -> tuple[TransformersDecoder, LoadedWeights]:
    """Load a model that transformers' code computes, with headrace's linear layers.

    Raises a ModelError if memory is short, weights do not fit the configuration, or sequences of a batch affect each
    other.
    """
    skeleton, placed = _skeleton(opened, compute.dtype)
    assignments = _assignments(skeleton, placed)
    head = skeleton.get_output_embeddings()
    plan = choose_layer_methods(
        skeleton, head.linear if isinstance(head, ForeignLinear) else None, assignments, compute, weights
    )
    needed_bytes = sum(parameter.nbytes for parameter in skeleton.parameters()) + plan.packed_bytes
    require_memory(needed_bytes, compute.device)
    try:
        model = read_model(opened.foreign, placed, compute.dtype, opened.root)
        theirs = _install(model, skeleton, placed, compute.device)
        load_weights(model, assignments, progress)
    except (torch.OutOfMemoryError, MemoryError):
        raise not_enough_memory(needed_bytes, obtainable_memory_bytes(compute.device), compute.device) from None
    formats = Counter(format_of(model, assignment) for assignment in assignments)
    formats.update(DTYPE_NAMES[parameter.dtype] for parameter in theirs.values())
    others = _others_note(model)
    decoder = TransformersDecoder(model, opened.observed, compute)
    check_independence(decoder, opened.vocab_size, opened.foreign.model_class.__name__)
    note = weights_note(decoder.weight_bytes(), formats, plan) + others
    if decoder.continues_by_rows:
        note += "; the code continues a prompt only a row at a time"
    return decoder, LoadedWeights(formats, note)


def unallocated_layers(opened: OpenedTransformersModel) -> dict[str, Linear]:
    """Return the layers that can have adapters, without memory, by the module's name for adapters."""
    modules = adapter_modules(_skeleton(opened, torch.bfloat16)[0])
    return {name: layer for name, layer in modules.values() if name != "embed"}


def _skeleton(opened: OpenedTransformersModel, dtype: torch.dtype) -> tuple[PreTrainedModel, PlacedTensors]:
    """Make the model with headrace's layers, without memory, and find the layers' tensors."""
    skeleton = make_skeleton(opened.foreign, dtype)
    placed = place_tensors(skeleton, opened.read_headers(), opened.observed.replaceable)
    replace_layers(skeleton, placed.layers, DenseLinearMethod(dtype), dtype)
    return skeleton, placed


def _assignments(skeleton: PreTrainedModel, placed: PlacedTensors) -> list[Assignment]:
    """Return the assignments of tensors to headrace's layers in `skeleton`, in the order of the files."""
    names = {id(module): name for name, module in skeleton.named_modules() if isinstance(module, Linear)}
    found = []
    for target, tensor in placed.own.items():
        module, _, parameter = target.rpartition(".")
        linear = names[id(skeleton.get_submodule(module).linear)]
        found.append(Assignment(tensor, Destination(linear, parameter, None, None, None), None))
    return found


def _install(
    model: PreTrainedModel, skeleton: PreTrainedModel, placed: PlacedTensors, device: torch.device
) -> dict[str, torch.Tensor]:
    """Move a model to the device, and headrace's layers from the skeleton to the model; allocate their memory.

    Returns the model's other parameters, which transformers computes with, by name.
    """
    for name in placed.layers.names:  # with stand-ins, which would become whole tensors on another device
        model.set_submodule(name, nn.Identity())
    model.to(device)
    theirs = dict(model.named_parameters())
    for name in placed.layers.names:
        model.set_submodule(name, skeleton.get_submodule(name))
    for linear in {id(each): each for each in model.modules() if isinstance(each, Linear)}.values():
        allocate_module(linear, device)
    return theirs


def _others_note(model: PreTrainedModel) -> str:
    """Return the end of the note about weights, which lists the matrices that transformers' code multiplies by."""
    kinds = Counter(
        re.sub(r"\.\d+(?=\.)", ".*", f"{name}.{parameter}")
        for name, module in model.named_modules()
        if not isinstance(module, nn.Embedding | Linear)
        for parameter, values in module.named_parameters(recurse=False)
        if values.dim() > 1
    )
    if not kinds:
        return ""
    listed = ", ".join(f"{name} {count}" for name, count in kinds.most_common(_MAX_LISTED))
    more = f" and {len(kinds) - _MAX_LISTED} more kinds" if len(kinds) > _MAX_LISTED else ""
    return f"; multiplied by transformers' code: {listed}{more}"
