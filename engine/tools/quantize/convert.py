"""convert: a model's files -> a folder with a compressed-tensors checkpoint, layer by layer."""

import contextlib
import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from engine.errors import StartupError
from engine.jobs.quantize_config import CALIBRATION_TOKENS, GROUP_SIZES, QuantizeConfig, Scheme
from engine.quality.passages import passages_of
from engine.runner.kv_budget import format_bytes
from engine.tools.quantize.calibration import (
    InputSums,
    Seen,
    calibration_batches,
    has_narrow_outputs,
    linears_of,
    rounded_inputs,
    sum_inputs,
    watched,
)
from engine.tools.quantize.folding import Folding, fold
from models.decoder_layer import DecoderLayer
from models.errors import UnsupportedModelError
from models.export.compressed_tensors import OutputFormat, quantization_config, tensors_of
from models.export.hugging_face import Layout, layout_of
from models.export.shards import ShardWriter
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.linear.storage import WeightOptions
from models.loading.assign import Assignment, check_finite
from models.loading.layer_stream import LayerStream, LayerwiseForward, layer_of
from models.loading.open import OpenedModel
from models.progress import ProgressReport
from models.quant.dequantize import dequantize
from models.quant.equalize import EQUALIZED, column_factors
from models.quant.gptq import factored, quantize_for_inputs, quantize_to_nearest
from models.quant.tensor import Encoding, QuantTensor
from models.sources.resolve import ModelFiles
from models.tokenizer.load import load_tokenizer_assets

_STORED_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}  # of tensors that are kept
FORMS = {
    Scheme.INT4: OutputFormat(Encoding.INT4),
    Scheme.INT8: OutputFormat(Encoding.INT8),
    Scheme.FP8: OutputFormat(Encoding.FP8_E4M3),
    Scheme.W8A8: OutputFormat(Encoding.INT8, rounds_inputs=True),
    Scheme.FP8_DYNAMIC: OutputFormat(Encoding.FP8_E4M3, rounds_inputs=True),
}
_KEPT_INPUTS = 512  # of each matrix, to choose factors by
_CORRECTED = (Encoding.INT4,)  # for what was quantized before: 8 bits leave too little to tell from noise


@dataclass(slots=True)
class Written:
    """What a conversion wrote, for the report."""

    num_bytes: int = 0
    group_size_of: dict[str, int | None] = field(default_factory=dict)  # of each quantized module; None: a scale a row
    plain: list[str] = field(default_factory=list)  # linear modules that stay as they are


def convert(
    files: ModelFiles,
    opened: OpenedModel,
    config: QuantizeConfig,
    text: str | None,
    folder: Path,
    progress: ProgressReport,
) -> Written:
    """Write the quantized model into `folder`, which is empty. text: to calibrate on, or None.

    Raises a ModelError, or StartupError for the text or the space that the folder has.
    """
    device = torch.device("cpu")
    stream = LayerStream(opened, dtype=torch.float32, device=device, weights=WeightOptions(keeps_quantized=False))
    work = _Conversion(stream, layout_of(files, opened), config, _stored_dtype(opened), ShardWriter(folder))
    work.check(folder)
    batches = []
    if text is not None:
        assets = load_tokenizer_assets(files, opened.config, opened.gguf_metadata)
        chunks = passages_of(text, assets, opened.spec.max_position).chunks
        num_tokens = config.calibration_tokens or CALIBRATION_TOKENS
        batches = calibration_batches(chunks, num_tokens, stream.decoder.layer_groups, device)
    return work.run(folder, batches, progress)


def _stored_dtype(opened: OpenedModel) -> torch.dtype:
    """The checkpoint's own where that has 16 bits: of scales, and of what comes from a GGUF."""
    return opened.checkpoint.dtype if opened.checkpoint.dtype == torch.float16 else torch.bfloat16


def _same(values: torch.Tensor) -> torch.Tensor:
    return values


class _Conversion:
    def __init__(
        self, stream: LayerStream, layout: Layout, config: QuantizeConfig, dtype: torch.dtype, writer: ShardWriter
    ) -> None:
        self._stream = stream
        self._decoder = stream.decoder
        self._layout = layout
        self._columns_by_scale = config.columns_by_scale
        self._scheme = config.scheme
        self._form = FORMS[config.scheme]
        self._equalizes = self._form.encoding in EQUALIZED
        self._corrects = self._form.encoding in _CORRECTED
        self._dtype = dtype
        self._writer = writer
        self._written = Written()

    def check(self, folder: Path) -> None:
        """Refuse what a compressed-tensors checkpoint has no form for, and a full disk, before anything is read."""
        inner = [each.tensor for each in self._stream.assignments if self._is_inner(each)]
        names = Counter(tensor.name for tensor in inner)
        for assignment in self._stream.assignments:
            tensor = assignment.tensor
            self._layout.name(assignment)
            if not self._is_inner(assignment):
                continue
            if names[tensor.name] > 1:
                raise UnsupportedModelError(
                    f"{tensor.name!r} holds several matrices whose rows are mixed, which are not quantized together; "
                    "serve the model with --quantization instead"
                )
            rows = torch.arange(tensor.shape[0])[:, None]
            if self._layout.for_decoder(rows, assignment, self._decoder).shape[1:] != (1,):
                raise UnsupportedModelError(
                    f"{tensor.name!r} is stored transposed, for which compressed-tensors has no form; "
                    "serve the model with --quantization instead"
                )
        columns = sorted({tensor.shape[-1] for tensor in inner})
        if not any(map(self._group_size, columns)):
            raise UnsupportedModelError(
                f"--scheme {self._scheme} gives a scale to {', '.join(map(str, GROUP_SIZES))} columns, and no matrix "
                f"of this model has a multiple of one of these (they have {', '.join(map(str, columns))}); choose fp8, "
                "w8a8, fp8-dynamic, or int8 without --group-size, which take whole rows"
            )
        needed, free = sum(map(self._num_bytes, self._stream.assignments)), shutil.disk_usage(folder).free
        if needed > free:
            raise StartupError(
                f"the checkpoint will take {format_bytes(int(needed))}, and {folder.parent} has {format_bytes(free)} "
                "free; make space there, or name a folder on another disk with --out"
            )

    def _num_bytes(self, assignment: Assignment) -> float:
        """What the tensor will take in the file."""
        *_, columns = shape = assignment.tensor.shape
        count = math.prod(shape)
        size = self._group_size(columns) if self._is_inner(assignment) else None
        if size is None:
            return count * self._plain_dtype(assignment).itemsize
        codes = count / 2 if self._form.encoding is Encoding.INT4 else count
        return codes + count / size * self._dtype.itemsize

    @torch.inference_mode()
    def run(self, folder: Path, batches: Sequence, progress: ProgressReport) -> Written:
        for assignment in self._stream.assignments:
            if layer_of(assignment) is None:
                self._write_plain(assignment)
        if batches:
            self._stream.load_non_layer_weights()
        passages, truths = ([self._stream.begin([batch]) for batch in batches] for _ in range(2))
        for index, layer in self._stream.layers("quantize", progress):
            self._convert_layer(index, layer, passages, truths)
        written = self._written
        fields = quantization_config(self._form, written.group_size_of, written.plain)
        try:
            self._writer.finish()
            self._layout.write_rest(folder, {"quantization_config": fields})
        except OSError as error:
            raise StartupError(
                f"cannot write the checkpoint ({error.strerror}: {error.filename}); mend that, or name another folder "
                "with --out"
            ) from error
        written.num_bytes = self._writer.num_bytes
        return written

    def _convert_layer(
        self, index: int, layer: nn.Module, passages: list[LayerwiseForward], truths: list[LayerwiseForward]
    ) -> None:
        """Write one layer's tensors, and let the passages go on: `truths` through the layer as it was."""
        plan = [each for each in self._stream.assignments if layer_of(each) == index]
        if passages:
            linears = linears_of(layer)
            for each in filter(self._is_inner, plan):
                linear = linears[_name_in_layer(each)]
                check_finite(each.tensor, linear.weight.narrow(0, *linear.rows(each.destination.shard)))
        seen: dict[str, Seen] = {}
        folding = Folding()
        if passages and (self._equalizes or self._corrects):
            interval = self._row_interval(truths) if self._equalizes else None
            with watched(layer, interval, keeps_targets=self._corrects) as seen:
                for truth in truths:
                    self._stream.compute(index, truth)
        if passages and self._equalizes:
            folding = self._folding(index, layer, plan, seen)
            folding.multiply_weights(layer)
        quantized: list[Assignment] = []
        for assignment in plan:
            size = self._group_size(assignment.tensor.shape[1]) if self._is_inner(assignment) else None
            if size is None:
                name = _name_in_layer(assignment)
                self._write_plain(assignment, partial(folding.folded, name=name, assignment=assignment))
            elif passages:
                quantized.append(assignment)
            else:
                weight = self._layout.values(assignment, self._decoder, torch.float32)
                check_finite(assignment.tensor, weight)
                self._write(assignment, quantize_to_nearest(weight, self._form.encoding, size, self._dtype))
        if passages:
            self._calibrate(index, layer, quantized, passages, seen, folding)

    def _calibrate(
        self,
        index: int,
        layer: nn.Module,
        assignments: Sequence[Assignment],
        passages: list[LayerwiseForward],
        seen: Mapping[str, Seen],
        folding: Folding,
    ) -> None:
        """Quantize one matrix after the other, in the order in which they are computed."""
        linears = linears_of(layer)
        by_name: dict[str, list[Assignment]] = {}
        for assignment in assignments:
            by_name.setdefault(_name_in_layer(assignment), []).append(assignment)
        targets = {name: own.targets for name, own in seen.items() if len(own.targets) == len(passages)}
        for name, of_name in targets.items():
            if has_narrow_outputs(linears[name]):
                for outputs in of_name:
                    folding.multiply_outputs(name, linears[name], outputs)
        rounding = rounded_inputs(layer, self._form.encoding) if self._form.rounds_inputs else contextlib.nullcontext()
        with rounding:
            stages = _stages(by_name, targets)
            for number, names in enumerate(stages):
                if isinstance(layer, DecoderLayer) and number == _num_of_attention(stages):
                    with layer.without_mlp():
                        for passage in passages:
                            self._stream.compute(index, passage)
                    layer.drop_attention()  # all of it is quantized: it need not be computed again
                sums = {
                    name: InputSums(linears[name], targets.get(name, ()), folding.columns.get(name)) for name in names
                }
                steps = [partial(self._stream.compute, index, passage, advances=False) for passage in passages]
                sum_inputs(sums, layer, steps)
                for name in names:
                    self._quantize(linears[name], by_name[name], sums.pop(name))
                    targets.pop(name, None)
            for passage in passages:
                self._stream.compute(index, passage)

    def _quantize(self, linear: Linear, assignments: Sequence[Assignment], sums: InputSums) -> None:
        inputs = factored(sums.hessian)
        weight = sums.corrected(linear, inputs)
        for assignment in assignments:
            size = self._group_size(linear.in_features)
            assert size is not None
            rows = weight.narrow(0, *linear.rows(assignment.destination.shard))
            order = self._layout.for_decoder(torch.arange(len(rows))[:, None], assignment, self._decoder)[:, 0]
            in_file = torch.empty_like(rows)
            in_file[order] = rows  # the file's row order[i] is row i of the decoder's
            quantized = quantize_for_inputs(in_file, inputs, self._form.encoding, size, self._dtype)
            self._write(assignment, quantized)
            held = linear.weight.narrow(0, *linear.rows(assignment.destination.shard))
            held.copy_(dequantize(quantized, torch.float32)[order])  # the passages go on through what was written

    def _row_interval(self, passages: list[LayerwiseForward]) -> int:
        return max(1, sum(len(rows) for passage in passages for rows in passage.rows) // _KEPT_INPUTS)

    def _folding(self, index: int, layer: nn.Module, plan: list[Assignment], seen: Mapping[str, Seen]) -> Folding:
        def choose(name: str, linear: Linear) -> torch.Tensor:
            size = self._group_size(linear.in_features) or linear.in_features
            own = seen[name]
            return column_factors(
                linear.weight,
                own.sizes,
                torch.cat(own.rows),
                self._form.encoding,
                size,
                rounds_inputs=self._form.rounds_inputs,
            )

        return fold(layer, self._decoder.spec.layers[index], index, plan, choose, self._dtype)

    def _write(self, assignment: Assignment, quantized: QuantTensor) -> None:
        module = self._layout.name(assignment).removesuffix(".weight")
        for tensor_name, tensor in tensors_of(module, quantized, self._form).items():
            self._writer.add(tensor_name, tensor)
        self._written.group_size_of[module] = quantized.group_size if self._columns_by_scale else None

    def _group_size(self, columns: int) -> int | None:
        """Columns that share a scale: the size asked for, or the next smaller that divides them; None if none does."""
        wanted = self._columns_by_scale
        if wanted is None:
            return columns
        return next((size for size in GROUP_SIZES if size <= wanted and columns % size == 0), None)

    def _write_plain(self, assignment: Assignment, folded: Callable[[torch.Tensor], torch.Tensor] = _same) -> None:
        """As it is stored, with its factors; what was quantized, or comes from a GGUF, in the checkpoint's dtype."""
        name = self._layout.name(assignment)
        values = self._layout.values(assignment, self._decoder, self._plain_dtype(assignment))
        check_finite(assignment.tensor, values)
        self._writer.add(name, folded(values).to(values.dtype))
        module = self._decoder.get_submodule(assignment.destination.module)
        if name.endswith(".weight") and values.dim() == 2 and not isinstance(module, Embedding):
            self._written.plain.append(name.removesuffix(".weight"))

    def _plain_dtype(self, assignment: Assignment) -> torch.dtype:
        """Of a tensor that is not quantized here."""
        tensor = assignment.tensor
        return self._dtype if tensor.read_stored is None else _STORED_DTYPES.get(tensor.format, self._dtype)

    def _is_inner(self, assignment: Assignment) -> bool:
        """Whether the tensor is the matrix of a linear layer inside a decoder layer."""
        module = self._decoder.get_submodule(assignment.destination.module)
        is_matrix = isinstance(module, Linear) and assignment.destination.parameter == "weight"
        return is_matrix and layer_of(assignment) is not None


def _stages(names: Collection[str], in_order: Collection[str]) -> list[list[str]]:
    """Linear layers that are calibrated together: each of `in_order` by itself, then all others."""
    others = [name for name in names if name not in in_order]
    return [[name] for name in in_order if name in names] + ([others] if others else [])


def _num_of_attention(stages: Sequence[Sequence[str]]) -> int:
    """After how many stages all of attention is quantized."""
    return 1 + max((n for n, names in enumerate(stages) if any(name.startswith("attn.") for name in names)), default=-1)


def _name_in_layer(assignment: Assignment) -> str:
    """The name of the assignment's module inside its decoder layer."""
    return assignment.destination.module.split(".", 2)[2]


def described_groups(written: Written) -> str:
    """Such as "groups of 64 columns in 90 matrices, of 128 in 30"."""
    counts = Counter(written.group_size_of.values())
    return ", ".join(
        f"{'a scale a row' if size is None else f'groups of {size} columns'} in {count} matrices"
        for size, count in counts.most_common()
    )
