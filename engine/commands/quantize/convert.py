"""convert: writes a model as a compressed-tensors checkpoint, layer by layer, after checks of model and disk."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from engine.command_io.quantize_config import CALIBRATION_TOKENS, GROUP_SIZES, QuantizeConfig, Scheme
from engine.commands.quantize.calibration import calibration_batches
from engine.commands.quantize.checkpoint_writer import CheckpointWriter, ConversionResult
from engine.commands.quantize.layer_calibration import LayerCalibration
from engine.errors import StartupError
from engine.quality.eval_chunks import split_into_chunks
from engine.runner.kv_budget import format_bytes
from models.batch import ForwardBatch
from models.decoder import Decoder
from models.errors import UnsupportedModelError
from models.export.hugging_face import Layout, make_layout
from models.forward.layer_stream import LayerStream, layer_of
from models.linear.storage import WeightOptions
from models.loading.assign import Assignment, check_finite
from models.loading.open import OpenedModel
from models.progress import ProgressReport
from models.quant.gptq import quantize_to_nearest
from models.sources.resolve import ModelFiles
from models.tokenizer.load import load_tokenizer_assets


def convert(
    files: ModelFiles,
    opened: OpenedModel,
    config: QuantizeConfig,
    text: str | None,
    folder: Path,
    progress: ProgressReport,
) -> ConversionResult:
    """Write the quantized model into `folder`, which must be empty. text: the calibration text, if any.

    Raises ModelError, and StartupError for a calibration text that is too short, or for too little disk space.
    """
    device = torch.device("cpu")
    weights = WeightOptions(keeps_quantized=False)
    stream = LayerStream(opened, dtype=torch.float32, device=device, weights=weights, progress=progress)
    layout = make_layout(files, opened)
    writer = CheckpointWriter(folder, layout, stream.decoder, config, _stored_dtype(opened))
    check_matrices(stream.assignments, layout, stream.decoder, writer, config.scheme)
    check_space(stream.assignments, writer, folder)
    batches = []
    if text is not None:
        assets = load_tokenizer_assets(files, opened.config, opened.gguf_metadata)
        chunks = split_into_chunks(text, assets, opened.spec.max_position)
        num_tokens = config.calibration_tokens or CALIBRATION_TOKENS
        batches = calibration_batches(chunks, num_tokens, stream.decoder.cache_layout.groups, device)
    return _write_layers(stream, layout, writer, batches, progress)


def _stored_dtype(opened: OpenedModel) -> torch.dtype:
    """Return the dtype of scales and of tensors converted from GGUF: fp16 if the checkpoint is fp16, else bf16."""
    return opened.checkpoint.dtype if opened.checkpoint.dtype == torch.float16 else torch.bfloat16


@torch.inference_mode()
def _write_layers(
    stream: LayerStream,
    layout: Layout,
    writer: CheckpointWriter,
    batches: Sequence[ForwardBatch],
    progress: ProgressReport,
) -> ConversionResult:
    """Quantize and write all layers. Without calibration `batches`, weights are rounded to nearest."""
    for assignment in stream.assignments:
        if layer_of(assignment) is None:
            writer.write_unquantized(assignment)
    if batches:
        stream.load_non_layer_weights()
    forwards, reference_passes = ([stream.begin([batch]) for batch in batches] for _ in range(2))
    for index, layer in stream.layers("quantize", progress):
        if forwards:
            LayerCalibration(stream, layout, writer, index, layer).run(forwards, reference_passes)
        else:
            _round_layer([each for each in stream.assignments if layer_of(each) == index], stream, layout, writer)
    return writer.finish()


def _round_layer(plan: Sequence[Assignment], stream: LayerStream, layout: Layout, writer: CheckpointWriter) -> None:
    for assignment in plan:
        size = writer.group_size(assignment)
        if size is None:
            writer.write_unquantized(assignment)
        else:
            weight = layout.values(assignment, stream.decoder, torch.float32)
            check_finite(assignment.tensor, weight)
            writer.write(assignment, quantize_to_nearest(weight, writer.output_format.encoding, size, writer.dtype))


def check_matrices(
    plan: Sequence[Assignment], layout: Layout, decoder: Decoder, writer: CheckpointWriter, scheme: Scheme
) -> None:
    """Raise UnsupportedModelError if compressed-tensors cannot represent one of the planned matrices."""
    inner = [each for each in plan if writer.is_inner_linear(each)]
    names = Counter(each.tensor.name for each in inner)
    for assignment in plan:
        tensor = assignment.tensor
        layout.name(assignment)
        if not writer.is_inner_linear(assignment):
            continue
        if names[tensor.name] > 1:
            raise UnsupportedModelError(
                f"{tensor.name!r} holds several matrices with mixed rows, which cannot be quantized together; "
                "serve the model with --quantization instead"
            )
        rows = torch.arange(tensor.shape[0])[:, None]
        if layout.for_decoder(rows, assignment, decoder).shape[1:] != (1,):
            raise UnsupportedModelError(
                f"{tensor.name!r} is stored transposed, which compressed-tensors cannot describe; "
                "serve the model with --quantization instead"
            )
    columns = sorted({each.tensor.shape[-1] for each in inner})
    if not any(map(writer.group_size_for, columns)):
        raise UnsupportedModelError(
            f"--scheme {scheme} gives a scale to {', '.join(map(str, GROUP_SIZES))} columns, and no matrix "
            f"of this model has a multiple of one of these (they have {', '.join(map(str, columns))}); choose fp8, "
            "w8a8, fp8-dynamic, or int8 without --group-size, which take whole rows"
        )


def check_space(plan: Sequence[Assignment], writer: CheckpointWriter, folder: Path) -> None:
    """Raise StartupError if the checkpoint will not fit on the disk of `folder`."""
    needed, free = sum(map(writer.num_bytes, plan)), shutil.disk_usage(folder).free
    if needed > free:
        raise StartupError(
            f"the checkpoint will take {format_bytes(int(needed))}, and {folder.parent} has {format_bytes(free)} "
            "free; make space there, or name a folder on another disk with --out"
        )
