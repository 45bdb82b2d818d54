"""LayerCalibration: quantizes the matrices of one layer, calibrated on their inputs."""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from engine.commands.quantize.calibration import (
    InputStats,
    InputSums,
    has_narrow_outputs,
    linears_of,
    rounded_inputs,
    sum_inputs,
    watched_inputs,
)
from engine.commands.quantize.checkpoint_writer import CheckpointWriter
from engine.commands.quantize.folding import Folding, fold
from models.export.hugging_face import Layout
from models.forward.layer_stream import LayerStream, LayerwiseForward, layer_of
from models.layers.decoder_layer import DecoderLayer
from models.linear.linear import Linear
from models.loading.assign import Assignment, check_finite
from models.quant.dequantize import dequantize
from models.quant.equalize import EQUALIZED, column_factors
from models.quant.gptq import factor_inputs, quantize_for_inputs
from models.quant.tensor import Encoding

_NUM_SAMPLES = 512  # inputs of each matrix, to choose factors from
_CORRECTED = (Encoding.INT4,)  # for errors of the layers before, which 8 bits make as small as noise


class LayerCalibration:
    """Calibrated quantization of layer `index`. layer: the loaded module of that layer."""

    def __init__(
        self, stream: LayerStream, layout: Layout, writer: CheckpointWriter, index: int, layer: nn.Module
    ) -> None:
        self._stream = stream
        self._layout = layout
        self._writer = writer
        self._index = index
        self._layer = layer
        self._plan = [each for each in stream.assignments if layer_of(each) == index]
        self._linears = linears_of(layer)
        self._format = writer.output_format
        self._equalizes = self._format.encoding in EQUALIZED
        self._corrects = self._format.encoding in _CORRECTED

    def run(self, forwards: Sequence[LayerwiseForward], reference_passes: Sequence[LayerwiseForward]) -> None:
        """Quantize and write the layer. `forwards` advance through the quantized layer, `reference_passes` (used only
        for formats that need them) through the original layer."""
        self._check_finite()
        stats = self._input_stats(reference_passes)
        folding = Folding()
        if self._equalizes:
            folding = self._folding(stats)
            folding.multiply_weights(self._layer)
        quantized = self._write_unquantized(folding)
        targets = self._targets(stats, folding, len(forwards))
        self._quantize_in_stages(quantized, forwards, targets, folding)

    def _check_finite(self) -> None:
        for each in filter(self._writer.is_inner_linear, self._plan):
            linear = self._linears[_name_in_layer(each)]
            check_finite(each.tensor, linear.weight.narrow(0, *linear.rows(each.destination.shard)))

    # --- inputs of the unquantized layer ------------------------------------------------------------------------------

    def _input_stats(self, reference_passes: Sequence[LayerwiseForward]) -> Mapping[str, InputStats]:
        """Run the reference passes through the layer; return statistics of each linear layer's inputs, by name."""
        if not self._equalizes and not self._corrects:
            return {}
        interval = _row_interval(reference_passes) if self._equalizes else None
        with watched_inputs(self._layer, interval, keeps_targets=self._corrects) as stats:
            for each in reference_passes:
                self._stream.compute(self._index, each)
        return stats

    def _folding(self, stats: Mapping[str, InputStats]) -> Folding:
        def choose_factors(name: str, linear: Linear) -> torch.Tensor:
            own = stats[name]
            return column_factors(
                linear.weight,
                own.square_sums,
                torch.cat(own.samples),
                self._format.encoding,
                self._writer.group_size_for(linear.in_features) or linear.in_features,
                rounds_inputs=self._format.rounds_inputs,
            )

        spec = self._stream.decoder.spec.layers[self._index]
        return fold(self._layer, spec, self._index, self._plan, choose_factors, self._writer.dtype)

    def _write_unquantized(self, folding: Folding) -> dict[str, list[Assignment]]:
        """Write the tensors that stay unquantized; return the assignments to quantize, by linear layer."""
        quantized: dict[str, list[Assignment]] = {}
        for assignment in self._plan:
            name = _name_in_layer(assignment)
            if self._writer.group_size(assignment) is None:
                fold_factors = partial(folding.folded, name=name, assignment=assignment)
                self._writer.write_unquantized(assignment, fold_factors)
            else:
                quantized.setdefault(name, []).append(assignment)
        return quantized

    def _targets(
        self, stats: Mapping[str, InputStats], folding: Folding, num_passes: int
    ) -> dict[str, list[torch.Tensor]]:
        """Return the reference outputs, one per pass, of the linear layers that ran in every pass, in execution
        order."""
        targets = {name: own.targets for name, own in stats.items() if len(own.targets) == num_passes}
        for name, own in targets.items():
            if has_narrow_outputs(self._linears[name]):
                for outputs in own:
                    folding.multiply_outputs(name, self._linears[name], outputs)
        return targets

    # --- quantizing ---------------------------------------------------------------------------------------------------

    def _quantize_in_stages(
        self,
        quantized: Mapping[str, Sequence[Assignment]],
        forwards: Sequence[LayerwiseForward],
        targets: dict[str, list[torch.Tensor]],
        folding: Folding,
    ) -> None:
        """Quantize in stages, each calibrated on inputs computed by the matrices that earlier stages have quantized.
        Empties `targets`."""
        rounding: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self._format.rounds_inputs:
            rounding = rounded_inputs(self._layer, self._format.encoding)
        with rounding:
            stages = _stages(quantized, targets)
            for number, names in enumerate(stages):
                layer = self._layer
                ends_attention = number == _num_attention_stages(stages)
                if isinstance(layer, DecoderLayer) and layer.is_divisible and ends_attention:
                    self._finish_attention(layer, forwards)
                sums = {
                    name: InputSums(self._linears[name], targets.get(name, ()), folding.column_factors.get(name))
                    for name in names
                }
                steps = [partial(self._stream.compute, self._index, each, advances=False) for each in forwards]
                sum_inputs(sums, self._layer, steps)
                for name in names:
                    self._quantize(self._linears[name], quantized[name], sums.pop(name))
                    targets.pop(name, None)
            for each in forwards:
                self._stream.compute(self._index, each)

    def _finish_attention(self, layer: DecoderLayer, forwards: Sequence[LayerwiseForward]) -> None:
        """Advance the passes through the fully quantized attention, so that later stages need not compute it again."""
        with layer.without_mlp():
            for each in forwards:
                self._stream.compute(self._index, each)
        layer.drop_attention()

    def _quantize(self, linear: Linear, assignments: Sequence[Assignment], sums: InputSums) -> None:
        inputs = factor_inputs(sums.hessian)
        weight = sums.corrected(linear, inputs)
        for assignment in assignments:
            size = self._writer.group_size_for(linear.in_features)
            assert size is not None
            rows = weight.narrow(0, *linear.rows(assignment.destination.shard))
            numbers = torch.arange(len(rows))[:, None]
            order = self._layout.for_decoder(numbers, assignment, self._stream.decoder)[:, 0]
            in_file = torch.empty_like(rows)
            in_file[order] = rows  # the file's row order[i] is row i of the decoder's
            quantized = quantize_for_inputs(in_file, inputs, self._format.encoding, size, self._writer.dtype)
            self._writer.write(assignment, quantized)
            in_memory = linear.weight.narrow(0, *linear.rows(assignment.destination.shard))
            in_memory.copy_(
                dequantize(quantized, torch.float32)[order]
            )  # `forwards` continue through the written weights


def _row_interval(forwards: Sequence[LayerwiseForward]) -> int:
    return max(1, sum(len(rows) for each in forwards for rows in each.rows) // _NUM_SAMPLES)


def _stages(names: Collection[str], in_order: Collection[str]) -> list[list[str]]:
    """Return the linear layers by calibration stage: each of `in_order` in a stage of its own, then all other layers in
    one stage."""
    others = [name for name in names if name not in in_order]
    return [[name] for name in in_order if name in names] + ([others] if others else [])


def _num_attention_stages(stages: Sequence[Sequence[str]]) -> int:
    """Return the number of stages up to and including the last with a matrix of the layer's mixer, or of the one beside
    it."""
    mixers = ("attn.", "beside.")
    return 1 + max((n for n, names in enumerate(stages) if any(name.startswith(mixers) for name in names)), default=-1)


def _name_in_layer(assignment: Assignment) -> str:
    return assignment.destination.module.split(".", 2)[2]
