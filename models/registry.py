"""Supported architectures: Hugging Face class name -> family, imported when first asked for."""

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from models.errors import UnsupportedModelError
from models.hf_config import HFConfig
from models.names import Rules
from models.spec import DecoderSpec

FAMILIES = {
    "BloomForCausalLM": "models.families.bloom:FAMILY",
    "Cohere2ForCausalLM": "models.families.cohere:COHERE2",
    "CohereForCausalLM": "models.families.cohere:COHERE",
    "FalconForCausalLM": "models.families.falcon:FAMILY",
    "GPTBigCodeForCausalLM": "models.families.starcoder:FAMILY",
    "GPTJForCausalLM": "models.families.gptj:FAMILY",
    "GPTNeoXForCausalLM": "models.families.gpt_neox:FAMILY",
    "Gemma2ForCausalLM": "models.families.gemma:GEMMA2",
    "Gemma3ForCausalLM": "models.families.gemma:GEMMA3",
    "GemmaForCausalLM": "models.families.gemma:GEMMA",
    "MptForCausalLM": "models.families.mpt:FAMILY",
    "OPTForCausalLM": "models.families.opt:FAMILY",
    "StableLmForCausalLM": "models.families.stablelm:FAMILY",
    "Starcoder2ForCausalLM": "models.families.starcoder2:FAMILY",
    "GPT2LMHeadModel": "models.families.gpt2:FAMILY",
    "Glm4ForCausalLM": "models.families.glm4:GLM4",
    "GlmForCausalLM": "models.families.glm4:GLM",
    "GptOssForCausalLM": "models.families.gpt_oss:FAMILY",
    "GraniteForCausalLM": "models.families.granite:FAMILY",
    "GraniteMoeForCausalLM": "models.families.granite:MOE",
    "GraniteMoeSharedForCausalLM": "models.families.granite:MOE",
    "LlamaForCausalLM": "models.families.llama:FAMILY",
    "MinistralForCausalLM": "models.families.mistral:FAMILY",
    "Ministral3ForCausalLM": "models.families.mistral:MINISTRAL3",
    "MistralForCausalLM": "models.families.mistral:FAMILY",
    "MixtralForCausalLM": "models.families.mixtral:FAMILY",
    "Olmo2ForCausalLM": "models.families.olmo:OLMO2",
    "Olmo3ForCausalLM": "models.families.olmo:OLMO3",
    "OlmoeForCausalLM": "models.families.olmo:OLMOE",
    "Phi3ForCausalLM": "models.families.phi3:FAMILY",
    "Qwen2ForCausalLM": "models.families.qwen2:FAMILY",
    "Qwen2MoeForCausalLM": "models.families.qwen_moe:QWEN2",
    "Qwen3ForCausalLM": "models.families.qwen3:FAMILY",
    "Qwen3MoeForCausalLM": "models.families.qwen_moe:QWEN3",
    "SmolLM3ForCausalLM": "models.families.smollm3:FAMILY",
}
# general.architecture of a GGUF file -> the class name that such models have elsewhere.
GGUF_ARCHITECTURES = {
    "glm4": "Glm4ForCausalLM",
    "gpt-oss": "GptOssForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "granite": "GraniteForCausalLM",
    "granitemoe": "GraniteMoeForCausalLM",
    "llama": "LlamaForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3moe": "Qwen3MoeForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}


@dataclass(frozen=True, slots=True)
class Family:
    """All that headrace knows of a model family."""

    describe: Callable[[HFConfig], DecoderSpec]
    names: Rules  # tensors of safetensors checkpoints
    gguf_names: Rules | None  # None where GGUF has no such architecture


def family_of(architecture: str) -> Family:
    """The family of a Hugging Face class name; raises UnsupportedModelError with the nearest supported ones."""
    path = FAMILIES.get(architecture)
    if path is None:
        raise UnsupportedModelError(
            f"architecture {architecture!r} is not supported; {_nearest(architecture, FAMILIES)}"
        )
    module, _, name = path.partition(":")
    family: Family = getattr(importlib.import_module(module), name)
    return family


def architecture_of_gguf(name: str) -> str:
    """The Hugging Face class name for a GGUF file's general.architecture; raises UnsupportedModelError."""
    if name not in GGUF_ARCHITECTURES:
        raise UnsupportedModelError(
            f"GGUF architecture {name!r} is not supported; {_nearest(name, GGUF_ARCHITECTURES)}"
        )
    return GGUF_ARCHITECTURES[name]


def _nearest(name: str, supported: Iterable[str]) -> str:
    """Such as "nearest are Qwen2ForCausalLM and Qwen3ForCausalLM; docs/models.md lists all"."""
    near = difflib.get_close_matches(name, supported, n=3, cutoff=0.0)
    return f"nearest by name are {', '.join(near)}; docs/models.md lists all that are"
