"""Write a GGUF model as a bf16 checkpoint in Hugging Face layout, so that rivals without GGUF compute the same weights.

    .venv/bin/python benchmarks/export_checkpoint.py model.gguf FOLDER

Quantised tensors are dequantised and rounded to bf16, as `headrace serve --quantization none` does. Tensor names are
found with the maps by which headrace loads both formats.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.checkpoints.gguf import GGUFCheckpoint
from models.checkpoints.gguf_config import gguf_config
from models.errors import ModelError, UnsupportedModelError
from models.hf_config import HFConfig
from models.loaded import TokenizerAssets
from models.names import Destination, NameMap, Rules, To
from models.registry import Family, family_of
from models.sources import ModelFiles, resolve_model
from models.spec import DecoderSpec
from models.tokenizer_assets import load_tokenizer_assets

# Beside the fields that headrace reads, libraries choose the model's class by this one.
_MODEL_TYPES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a GGUF file, or what else `headrace serve` takes that becomes one")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes; made if absent")
    options = parser.parse_args()
    try:
        export(resolve_model(options.model, None, lambda *_: None), options.folder)
    except (ModelError, OSError) as error:
        sys.stderr.write(f"export_checkpoint: {error}\n")
        return 1
    return 0


def export(files: ModelFiles, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files into `folder`. Raises ModelError or OSError."""
    if not files.gguf:
        raise UnsupportedModelError(f"{files.origin} is a folder in Hugging Face layout already; give a GGUF file")
    checkpoint = GGUFCheckpoint(files.gguf)
    config = gguf_config(checkpoint)
    architecture = config.architecture()
    if architecture not in _MODEL_TYPES:
        raise UnsupportedModelError(f"{architecture} cannot be exported; {', '.join(_MODEL_TYPES)} can")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(_named_tensors(checkpoint, family_of(architecture), config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer = load_tokenizer_assets(files, config)
    _write_json(folder / "config.json", _config_fields(config, tokenizer))
    (folder / "tokenizer.json").write_bytes(tokenizer.tokenizer_json)
    _write_json(folder / "tokenizer_config.json", _tokenizer_fields(tokenizer, config))


def _named_tensors(checkpoint: GGUFCheckpoint, family: Family, config: HFConfig) -> Iterator[tuple[str, torch.Tensor]]:
    assert family.gguf_names is not None, "the checkpoint is a GGUF file"
    spec: DecoderSpec = family.describe(config)
    places = NameMap(family.gguf_names)
    patterns = _patterns_by_place(family.names)
    for name, stored in checkpoint.tensors.items():
        if places.is_ignored(name):
            continue
        destinations = places.destinations(name)
        if len(destinations) != 1 or stored.read is None:
            raise UnsupportedModelError(f"tensor {name!r} of {checkpoint.path} is not known; it cannot be exported")
        (place,) = destinations
        tensor = stored.read(torch.bfloat16)
        if place.transform is not None:
            tensor = place.transform(tensor, None if place.layer is None else spec.layers[place.layer])
        yield _name_at(place, patterns), tensor.contiguous()


def _patterns_by_place(names: Rules) -> dict[tuple[str, str | None], str]:
    """(module, shard) -> the pattern of the tensor that fills it; layers are "{i}" in both."""
    return {(to.module, to.shard): pattern for pattern, to in names.items() if isinstance(to, To)}


def _name_at(place: Destination, patterns: dict[tuple[str, str | None], str]) -> str:
    module = place.module if place.layer is None else place.module.replace(f".{place.layer}.", ".{i}.", 1)
    pattern = patterns[module, place.shard]
    return pattern.replace("{i}", str(place.layer)).removesuffix("*") + place.parameter


def _config_fields(config: HFConfig, tokenizer: TokenizerAssets) -> dict[str, Any]:
    fields = dict(config.fields)
    rope = fields["rope_parameters"]
    if rope["rope_type"] != "default" or rope["partial_rotary_factor"] != 1:
        raise UnsupportedModelError(f"{config.source} scales its rotary positions, which is not exported")
    return {
        **fields,
        "model_type": _MODEL_TYPES[config.architecture()],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",  # its name before transformers 5, as is the next
        "rope_theta": rope["rope_theta"],
        "rope_parameters": {"rope_type": "default", "rope_theta": rope["rope_theta"]},
        "eos_token_id": tokenizer.eos_token_ids,
    }


def _tokenizer_fields(tokenizer: TokenizerAssets, config: HFConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.integer("max_position_embeddings"),
        "clean_up_tokenization_spaces": False,
        **tokenizer.special_tokens,
    }
    return fields if tokenizer.chat_template is None else {**fields, "chat_template": tokenizer.chat_template}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
