"""Assignment of a checkpoint's tensors to a decoder's parameters, and loading of the weights tensor by tensor."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from models.architecture.decoder import DecoderSpec
from models.checkpoints.base import Checkpoint, StoredTensor
from models.checkpoints.mapped_pages import MappedPages
from models.decoder import Decoder
from models.errors import CheckpointError, MisfitError
from models.families.name_map import Destination, NameMap, Rules
from models.layers.activation import Xielu
from models.layers.attention.qk_norm import OwnWeightsNorm
from models.layers.recurrence.gated_delta import ConvTaps
from models.layers.recurrence.token_shift import TokenShift
from models.linear.linear import Linear
from models.linear.method import Rearrange
from models.linear.per_head import PerHeadLinear
from models.progress import ProgressReport

# Modules whose parameters' ranges may be filled by separate tensors, as their `shards` say
_SHARDED = Linear | OwnWeightsNorm | Xielu | ConvTaps | TokenShift
_MAX_LISTED = 8  # tensors named in one message
# Plain tensors have no such names, and readers of quantized checkpoints take all that do.
_CODE_SUFFIXES = (".weight_packed", ".qweight", ".weight_scale", ".weight_scale_inv", ".quant_map")


LOG_RATE = ".A_log"  # parameters of recurrences that are logarithms of decays' rates


@dataclass(frozen=True, slots=True)
class Assignment:
    """A checkpoint's tensor and the rows of the decoder's parameter that the tensor fills; None for all rows."""

    tensor: StoredTensor
    destination: Destination
    rows: tuple[int, int] | None  # (first, count) along `dim`
    dim: int = 0

    @property
    def parameter(self) -> str:
        return f"{self.destination.module}.{self.destination.parameter}"


def assign(decoder: Decoder, checkpoint: Checkpoint, rules: Rules) -> list[Assignment]:
    """Assign the checkpoint's tensors to the decoder's parameters, so that each row is filled exactly once.

    Reads no tensors, so `decoder` may be on the meta device. Raises MisfitError, which names the tensors that are
    missing, unused, repeated or of the wrong shape.
    """
    names = NameMap(rules, len(decoder.spec.layers), dict(decoder.named_modules()))
    assigner = _Assigner(decoder)
    destinations = list(_destinations(decoder, checkpoint, names, assigner.problems))
    _cut_taps(decoder, destinations)
    for tensor, destination in destinations:
        assigner.add(tensor, destination)
    assigner.check_all_filled()
    if assigner.problems:
        _refuse(checkpoint, assigner.problems)
    return assigner.assignments


class _Assigner:
    """Collects assignments to a decoder's parameters, and problems such as missing or misshapen tensors.

    A part is a parameter's name with a shard, or with None for a parameter without shards.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._parameters = dict(decoder.named_parameters())  # a tied head is not among them
        self._shared_names = _shared_names(decoder)
        self._unfilled = dict.fromkeys(part for name in self._parameters for part in parameter_parts(decoder, name))
        self.assignments: list[Assignment] = []
        self.problems: list[str] = []

    def add(self, tensor: StoredTensor, destination: Destination) -> None:
        name = f"{destination.module}.{destination.parameter}"
        if name in self._shared_names:
            name = self._shared_names[name]
            destination = dataclasses.replace(destination, module=name.rpartition(".")[0])
        if name not in self._parameters:
            if not tensor.may_be_unused:
                self.problems.append(_is_unused(tensor))
            return
        module = self._decoder.get_submodule(destination.module)
        assert destination.shard is None or isinstance(module, _SHARDED), f"{destination.module} has no shards"
        assignment = Assignment(tensor, destination, *filled_rows(module, destination.shard))
        filled = [(name, destination.shard)] if destination.shard else parameter_parts(self._decoder, name)
        if any(part not in self._unfilled for part in filled):
            self.problems.append(f"{tensor.name!r} repeats another tensor")
        elif tensor.read is None:
            self.problems.append(_is_unsupported(tensor))
        elif reason := _misfit(assignment, self._parameters[name], self._decoder):
            self.problems.append(reason)
        for part in filled:
            self._unfilled.pop(part, None)
        self.assignments.append(assignment)

    def check_all_filled(self) -> None:
        """Add a problem for each part that no tensor fills; called once, after the last `add`."""
        self.problems += [f"no tensor fills {name}{f' ({shard})' if shard else ''}" for name, shard in self._unfilled]


def _is_unused(tensor: StoredTensor) -> str:
    return f"{tensor.name!r} is not used by this architecture"


def _is_unsupported(tensor: StoredTensor) -> str:
    return f"{tensor.name!r} is stored as {tensor.format}, which is not supported"


@torch.no_grad()
def load_weights(decoder: nn.Module, assignments: Sequence[Assignment], progress: ProgressReport) -> None:
    """Read each tensor into its parameter, in file order; then call the linear layers' process_after_loading.

    decoder: a Decoder, or a module for whose tensors no destination has a transform.
    """
    parameters = dict(decoder.named_parameters())
    total = sum(assignment.tensor.num_bytes for assignment in assignments)
    done = 0
    pages = MappedPages({assignment.tensor.file for assignment in assignments})
    progress("load weights", done, total, "B")
    for assignment in assignments:
        tensor, destination = assignment.tensor, assignment.destination
        module = decoder.get_submodule(destination.module)
        rearrange = partial(transform_tensor, assignment=assignment, decoder=decoder)
        if isinstance(module, Linear) and destination.parameter == "weight":
            module.method.load(module, destination.shard, tensor, rearrange)
        else:
            _fill(parameters[assignment.parameter], assignment, rearrange)
        done += tensor.num_bytes
        pages.record_read(tensor.num_bytes)
        progress("load weights", done, total, "B")
    for name in dict.fromkeys(assignment.destination.module for assignment in assignments):
        module = decoder.get_submodule(name)
        if isinstance(module, Linear):
            module.method.process_after_loading(module)
        elif isinstance(module, PerHeadLinear):
            module.process_after_loading()


def _fill(parameter: torch.Tensor, assignment: Assignment, rearrange: Rearrange) -> None:
    """Read a dense tensor into its parameter; a function of its own, so that its values are freed at once."""
    values = rearrange(_read_finite(assignment.tensor, parameter.dtype))
    if assignment.destination.transform is not None:  # such as a logarithm
        check_finite(assignment.tensor, values)
    if assignment.parameter.endswith(LOG_RATE) and not bool(values.exp().isfinite().all()):
        raise CheckpointError(
            f"{assignment.tensor.file}: {assignment.tensor.name!r} has logarithms of decays that are not finite, such "
            f"as {values.max().item():g}; fetch the checkpoint again"
        )
    _narrow(parameter, assignment).copy_(values)


def _read_finite(tensor: StoredTensor, dtype: torch.dtype) -> torch.Tensor:
    """Read a dense tensor and check it for NaN and infinity, which kernels that round rows would hide."""
    assert tensor.read is not None
    values = tensor.read(dtype)
    check_finite(tensor, values)
    return values


def check_finite(tensor: StoredTensor, values: torch.Tensor) -> None:
    """Raise a CheckpointError that names the tensor if any of its `values` is NaN or infinite."""
    if values.numel() and not bool(torch.stack(values.aminmax()).isfinite().all()):
        raise CheckpointError(
            f"{tensor.file}: {tensor.name!r} has numbers that are not finite; fetch the checkpoint again"
        )


def _destinations(
    decoder: Decoder, checkpoint: Checkpoint, names: NameMap, problems: list[str]
) -> Iterator[tuple[StoredTensor, Destination]]:
    """Yield each tensor, or each expert's slice of one, with its destination; add unusable tensors to `problems`."""
    for tensor in checkpoint.tensors.values():
        if names.is_ignored(tensor.name):
            continue
        destinations = names.destinations(tensor.name)
        if not destinations:
            problems.append(_is_unused(tensor))
        for destination in destinations:
            if destination.module == "head" and decoder.spec.has_tied_head:
                continue  # a copy of the embeddings
            if destination.is_of_shared_kv(decoder.spec):
                continue  # training has left them there
            if "{e}" in destination.module:
                yield from _expert_parts(decoder, tensor, destination, problems)
            else:
                yield tensor, destination


def _cut_taps(decoder: Decoder, destinations: Sequence[tuple[StoredTensor, Destination]]) -> None:
    """Cut convolutions' weights as the checkpoint does: transformers saves thirds, whatever the sizes of q, k and v."""
    modules = dict(decoder.named_modules())
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    for tensor, to in destinations:
        if to.shard is not None and isinstance(modules.get(to.module), ConvTaps):
            sizes[to.module][to.shard] = math.prod(tensor.shape[:-1])  # the last one is the taps
    for name, found in sizes.items():
        taps = modules[name]
        assert isinstance(taps, ConvTaps)
        if found.keys() == taps.shards.keys() and sum(found.values()) == taps.weight.shape[1]:
            taps.set_shards({shard: found[shard] for shard in taps.shards})


def _expert_parts(
    decoder: Decoder, tensor: StoredTensor, destination: Destination, problems: list[str]
) -> Iterator[tuple[StoredTensor, Destination]]:
    """Yield each matrix of a tensor that stacks one for each expert, or for each stream, with its destination."""
    count, what = _stacked(decoder.spec, destination.layer)
    if not count:
        problems.append(_is_unused(tensor))
    elif tensor.part is None:
        problems.append(_is_unsupported(tensor))
    elif tensor.shape[0] != count:
        problems.append(f"{tensor.name!r} holds {tensor.shape[0]} {what}; the configuration has {count}")
    else:
        for expert in range(count):
            module = destination.module.replace("{e}", str(expert))
            yield tensor.part(expert), dataclasses.replace(destination, module=module)


def _stacked(spec: DecoderSpec, layer: int | None) -> tuple[int, str]:
    """Return how many matrices a stack holds, and what they are: a layer's experts, or outside layers the streams."""
    if layer is None:
        streams = spec.layers[0].streams
        return (0 if streams is None else streams.count - 1), "streams' matrices"
    moe = spec.layers[layer].experts if layer < len(spec.layers) else None
    return (0 if moe is None else moe.num_experts), "experts"


def _shared_names(decoder: Decoder) -> dict[str, str]:
    """Map aliases of parameters that several modules share to the name that `named_parameters` yields."""
    names = {id(parameter): name for name, parameter in decoder.named_parameters()}
    all_names = decoder.named_parameters(remove_duplicate=False)
    return {name: names[id(parameter)] for name, parameter in all_names if names[id(parameter)] != name}


def parameter_parts(decoder: Decoder, parameter: str) -> list[tuple[str, str | None]]:
    """Return a parameter's parts: one for each shard, or a single one without shards."""
    module = decoder.get_submodule(parameter.rpartition(".")[0])
    shards = module.shards if isinstance(module, _SHARDED) else {}
    return [(parameter, shard) for shard in shards] or [(parameter, None)]


def filled_rows(module: nn.Module, shard: str | None) -> tuple[tuple[int, int] | None, int]:
    """Return (first, count) of the rows that a shard fills, None for all, and the dimension along which they lie."""
    if shard is None:
        return None, 0
    assert isinstance(module, _SHARDED)
    # Channels of a convolution are the columns of its weights.
    return module.shards.get(shard), 1 if isinstance(module, ConvTaps) else 0


def _misfit(assignment: Assignment, parameter: torch.Tensor, decoder: Decoder) -> str | None:
    """Return the reason why the tensor's shape does not fit its parameter, or None if it does."""
    stored = torch.empty(assignment.tensor.shape, device="meta")
    target = _narrow(torch.empty(parameter.shape, device="meta"), assignment)
    try:
        shape = transform_tensor(stored, assignment, decoder).shape
    except RuntimeError:  # rows that cannot be divided into the layer's heads
        shape = stored.shape
    if shape == target.shape:
        return None
    return f"{assignment.tensor.name!r} has shape {list(shape)}; by the configuration it must be {list(target.shape)}"


def transform_tensor(value: torch.Tensor, assignment: Assignment, decoder: nn.Module) -> torch.Tensor:
    """Convert a tensor from the checkpoint's layout to the decoder's."""
    if assignment.destination.transform is None:
        return value
    assert isinstance(decoder, Decoder)
    return assignment.destination.transformed(value, decoder.spec)


def _narrow(parameter: torch.Tensor, assignment: Assignment) -> torch.Tensor:
    return parameter if assignment.rows is None else parameter.narrow(assignment.dim, *assignment.rows)


def _refuse(checkpoint: Checkpoint, problems: Sequence[str]) -> None:
    files = _some(sorted({tensor.file.name for tensor in checkpoint.tensors.values()}))
    codes = [name for name in checkpoint.tensors if name.endswith(_CODE_SUFFIXES)]
    if codes:
        raise MisfitError(
            f"the weights ({files}) hold quantized matrices ({codes[0]} and others) that the configuration does not "
            "describe; check that its quantization_config came with the weights. Problems: "
            f"{_some(problems)}",
            problems[_MAX_LISTED:],
        )
    raise MisfitError(
        f"the weights ({files}) do not fit the model's configuration: {_some(problems)}; "
        "check that configuration and weights come from one complete checkpoint",
        problems[_MAX_LISTED:],
    )


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = f" and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
    return ", ".join(listed[:_MAX_LISTED]) + more
