"""Layouts: a model's tensors, configuration and tokenizer as a folder in Hugging Face layout.

The files of a folder are copied. The tensors of a GGUF file get the names and the row order of the family's safetensors
checkpoints, by the name maps with which headrace loads both formats.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.config.hf_config import HFConfig
from models.decoder import Decoder
from models.errors import UnsupportedModelError
from models.families.name_map import Destination, Rules, To
from models.families.registry import family_of
from models.loading.assign import Assignment, transform_tensor
from models.loading.load import OpenedModel
from models.sources.resolve import TOKENIZER_FILES, ModelFiles
from models.tokenizer.assets import TokenizerAssets
from models.tokenizer.load import load_tokenizer_assets

# Libraries choose the model's class by this field.
_MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
_COPIED = (*TOKENIZER_FILES, "generation_config.json", "chat_template*", "LICENSE*")


class FolderLayout:
    """Export layout of a model that was loaded from a folder in Hugging Face layout."""

    def __init__(self, files: ModelFiles, opened: OpenedModel) -> None:
        assert files.root is not None
        self._root = files.root
        self._fields = dict(opened.config.fields)

    def name(self, assignment: Assignment) -> str:
        """Return the tensor's name. Raises UnsupportedModelError for one expert of a stacked tensor."""
        name = assignment.tensor.name
        if name.endswith("]"):
            raise _stack_error(name)
        return name

    def values(self, assignment: Assignment, decoder: Decoder, dtype: torch.dtype) -> torch.Tensor:  # noqa: ARG002
        assert assignment.tensor.read is not None
        return assignment.tensor.read(dtype)

    def for_decoder(self, values: torch.Tensor, assignment: Assignment, decoder: Decoder) -> torch.Tensor:
        """Return the tensor's values in the decoder's layout."""
        return transform_tensor(values, assignment, decoder)

    def write_rest(self, folder: Path, more: Mapping[str, Any]) -> None:
        """Write the tokenizer, and the configuration with the fields `more` in place of any quantization_config."""
        fields = {name: value for name, value in self._fields.items() if name != "quantization_config"}
        write_config(folder / "config.json", {**fields, **more})
        for path in sorted({path for pattern in _COPIED for path in self._root.glob(pattern) if path.is_file()}):
            shutil.copyfile(path, folder / path.name)


class GGUFLayout:
    """Export layout of a model that was loaded from a GGUF file."""

    def __init__(self, files: ModelFiles, opened: OpenedModel) -> None:
        """Prepare the export. Raises UnsupportedModelError if the model cannot be exported from GGUF."""
        architecture = opened.config.architecture()
        if architecture not in _MODEL_TYPES:
            raise UnsupportedModelError(
                f"{files.origin}: {architecture} cannot be exported from GGUF; {', '.join(_MODEL_TYPES)} can; "
                "give the model in Hugging Face layout"
            )
        self._config = opened.config
        self._patterns = _patterns_by_destination(family_of(architecture).names)
        self._tokenizer = load_tokenizer_assets(files, opened.config, opened.gguf_metadata)
        self._own_fields = _config_fields(opened.config, self._tokenizer)

    def name(self, assignment: Assignment) -> str:
        """Return the tensor's name in the family's safetensors checkpoints; for a slice of a stack, the expert's name.

        Raises UnsupportedModelError if experts have no names of their own there.
        """
        name = _destination_name(assignment.destination, self._patterns)
        if name is None:
            raise _stack_error(assignment.tensor.name)
        return name

    def values(self, assignment: Assignment, decoder: Decoder, dtype: torch.dtype) -> torch.Tensor:
        assert assignment.tensor.read is not None
        return transform_tensor(assignment.tensor.read(dtype), assignment, decoder)

    def for_decoder(self, values: torch.Tensor, assignment: Assignment, decoder: Decoder) -> torch.Tensor:  # noqa: ARG002
        return values  # they already have the decoder's order of rows

    def write_rest(self, folder: Path, more: Mapping[str, Any]) -> None:
        write_config(folder / "config.json", {**self._own_fields, **more})
        (folder / "tokenizer.json").write_bytes(self._tokenizer.tokenizer_json)
        write_config(folder / "tokenizer_config.json", _tokenizer_fields(self._tokenizer, self._config))
        ids = {"bos_token_id": self._tokenizer.bos_token_id, "eos_token_id": self._tokenizer.eos_token_ids}
        write_config(
            folder / "generation_config.json", {name: value for name, value in ids.items() if value is not None}
        )


Layout = FolderLayout | GGUFLayout


def _stack_error(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name!r} is a part of a stack of experts, which compressed-tensors cannot describe; "
        "serve the model with --quantization instead"
    )


def make_layout(files: ModelFiles, opened: OpenedModel) -> Layout:
    """Return the model's export layout. Raises UnsupportedModelError if the model cannot be exported."""
    if files.gguf:
        return GGUFLayout(files, opened)
    assert files.root is not None
    if "text_config" in files.config.fields:
        raise UnsupportedModelError(
            f"{files.origin} wraps a language model that cannot be written by itself; "
            "serve the model with --quantization instead"
        )
    return FolderLayout(files, opened)


def _patterns_by_destination(names: Rules) -> dict[tuple[str, str | None], str]:
    """Return the patterns of tensors by (module, shard); layers are "{i}" in both, and experts "{e}"."""
    return {
        (to.module, to.shard): pattern
        for pattern, to in names.items()
        if isinstance(to, To) and ("{e}" in to.module) == ("{e}" in pattern)
    }


def _destination_name(to: Destination, patterns: dict[tuple[str, str | None], str]) -> str | None:
    module = to.module if to.layer is None else to.module.replace(f".{to.layer}.", ".{i}.", 1)
    expert = re.search(r"(?<=\.experts\.)\d+(?=\.)", module)
    if expert is not None:
        module = module[: expert.start()] + "{e}" + module[expert.end() :]
    pattern = patterns.get((module, to.shard))
    if pattern is None:
        return None
    name = pattern.replace("{i}", str(to.layer)).replace("{e}", expert[0] if expert else "")
    return name.removesuffix(f".{to.parameter}").removesuffix(".*") + f".{to.parameter}"


def _config_fields(config: HFConfig, tokenizer: TokenizerAssets) -> dict[str, Any]:
    fields = dict(config.fields)
    rope = fields["rope_parameters"]
    if rope["rope_type"] != "default" or rope["partial_rotary_factor"] != 1:
        raise UnsupportedModelError(f"{config.source} scales its rotary positions, which is not exported")
    return {
        **fields,
        "model_type": _MODEL_TYPES[config.architecture()],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",  # before transformers 5, like the next field
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


def write_config(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
