"""The committed quantized checkpoints (tests/fixtures/quantized), and altered copies of them."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.checkpoints.quantized.checkpoint import QuantizedCheckpoint
from models.checkpoints.quantized.registry import find_quantization_config, reader_for
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.config.hf_config import read_json_config
from tests.helpers.repository import FIXTURES

QUANTIZED = FIXTURES / "quantized"
KINDS = sorted(path.parent.name for path in QUANTIZED.glob("*/expected.safetensors"))


def open_quantized(folder: Path) -> QuantizedCheckpoint:
    config = find_quantization_config(read_json_config(folder / "config.json"), folder)
    assert config is not None
    return QuantizedCheckpoint(SafetensorsCheckpoint(folder), reader_for(config))


def expected_of(kind: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """What the format's own library made of a fixture: dequantized matrices; prompt; its logits on all of them."""
    tensors = load_file(QUANTIZED / kind / "expected.safetensors")
    none = torch.empty(0)  # experts alone have no logits
    return tensors, tensors.pop("ids", none), tensors.pop("logits", none)


def copy_of(kind: str, folder: Path) -> Path:
    """A copy of a fixture's checkpoint in `folder`, to be altered."""
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(QUANTIZED / kind / name, folder / name)
    return folder


def change_tensors(folder: Path, changes: Mapping[str, torch.Tensor | None]) -> None:
    """Replace, add or (None) remove tensors."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: value.contiguous() for name, value in tensors.items() if value is not None}, path)


def change_quantization(folder: Path, **changes: Any) -> None:
    """Set fields of the quantization_config; None removes one."""
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    section = {**fields.get("quantization_config", {}), **changes}
    fields["quantization_config"] = {name: value for name, value in section.items() if value is not None}
    path.write_text(json.dumps(fields))
