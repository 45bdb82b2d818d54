"""Supported architectures: Hugging Face class name -> family, imported when first asked for."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from models.errors import UnsupportedModelError
from models.hf_config import HFConfig
from models.names import Rules
from models.spec import DecoderSpec

_FAMILIES = {
    "LlamaForCausalLM": "models.families.llama:FAMILY",
    "MistralForCausalLM": "models.families.mistral:FAMILY",
    "Qwen2ForCausalLM": "models.families.qwen2:FAMILY",
    "GPT2LMHeadModel": "models.families.gpt2:FAMILY",
}
# general.architecture of a GGUF file -> the class name that such models have elsewhere.
_GGUF_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "gpt2": "GPT2LMHeadModel"}


@dataclass(frozen=True, slots=True)
class Family:
    """All that headrace knows of a model family."""

    describe: Callable[[HFConfig], DecoderSpec]
    names: Rules  # tensors of safetensors checkpoints
    gguf_names: Rules


def family_of(architecture: str) -> Family:
    """The family of a Hugging Face class name; raises UnsupportedModelError with the supported ones."""
    path = _FAMILIES.get(architecture)
    if path is None:
        raise UnsupportedModelError(
            f"architecture {architecture!r} is not supported; supported are {', '.join(sorted(_FAMILIES))}"
        )
    module, _, name = path.partition(":")
    family: Family = getattr(importlib.import_module(module), name)
    return family


def architecture_of_gguf(name: str) -> str:
    """The Hugging Face class name for a GGUF file's general.architecture; raises UnsupportedModelError."""
    if name not in _GGUF_ARCHITECTURES:
        raise UnsupportedModelError(
            f"GGUF architecture {name!r} is not supported; supported are {', '.join(sorted(_GGUF_ARCHITECTURES))}"
        )
    return _GGUF_ARCHITECTURES[name]
