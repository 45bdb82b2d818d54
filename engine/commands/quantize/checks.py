"""Refusal of models and disks that a conversion would fail on, before anything is read."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from engine.command_io.quantize_config import GROUP_SIZES, Scheme
from engine.commands.quantize.checkpoint_writer import CheckpointWriter
from engine.errors import StartupError
from engine.runner.kv_budget import format_bytes
from models.decoder import Decoder
from models.errors import UnsupportedModelError
from models.export.hugging_face import Layout
from models.loading.assign import Assignment


def check_matrices(
    plan: Sequence[Assignment], layout: Layout, decoder: Decoder, writer: CheckpointWriter, scheme: Scheme
) -> None:
    """Raise UnsupportedModelError for what a compressed-tensors checkpoint has no form for."""
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
