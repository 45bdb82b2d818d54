"""Supported architectures: families by Hugging Face class name, imported on first use."""

import difflib
import importlib
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig, quote_value
from models.errors import UnsupportedModelError
from models.families.name_map import Rules


@dataclass(frozen=True, slots=True)
class Architecture:
    """A supported architecture: the location of its family, and its GGUF files."""

    family: str  # "module:NAME" of a Family
    gguf: str | None = None  # general.architecture of its GGUF files; None if there is no such name
    gguf_as: str | None = None  # the architecture as which its GGUF files are read, if it is another
    gguf_key: str | None = None  # metadata that only its files have, if several architectures share `gguf`
    gguf_tensor: str | None = None  # a tensor that only its files have, likewise
    seen: str = ""  # real checkpoints that were run, for docs/models.md


@dataclass(frozen=True, slots=True)
class Family:
    """The functions and rules by which checkpoints of a model family are read."""

    describe: Callable[[HFConfig], DecoderSpec]
    names: Rules  # tensors of safetensors checkpoints
    gguf_names: Rules | None = None  # None if GGUF has no such architecture
    # Maps a GGUF file's metadata to the fields of config.json that `describe` reads.
    gguf_fields: Callable[[GGUFMetadata], Mapping[str, Any]] = common_fields
    # Maps config.json to the configuration of the served language model, which multimodal checkpoints have as a part.
    text_config: Callable[[HFConfig], HFConfig] = lambda config: config
    note: str = ""  # a start-up note for operators


FAMILIES: dict[str, Architecture] = {
    "BloomForCausalLM": Architecture("models.families.bloom:FAMILY", gguf="bloom"),
    "Cohere2ForCausalLM": Architecture("models.families.cohere:COHERE2", gguf="cohere2"),
    "CohereForCausalLM": Architecture("models.families.cohere:COHERE", gguf="command-r"),
    "DeepseekV2ForCausalLM": Architecture("models.families.deepseek:V2", gguf="deepseek2"),
    "DeepseekV3ForCausalLM": Architecture(
        "models.families.deepseek:V3", gguf="deepseek2", gguf_key="expert_weights_norm"
    ),
    "Exaone4ForCausalLM": Architecture("models.families.exaone4:FAMILY", gguf="exaone4"),
    "FalconForCausalLM": Architecture("models.families.falcon:FAMILY", gguf="falcon"),
    "GPT2LMHeadModel": Architecture("models.families.gpt2:FAMILY", gguf="gpt2"),
    "GPTBigCodeForCausalLM": Architecture("models.families.starcoder:FAMILY", gguf="starcoder"),
    "GPTJForCausalLM": Architecture("models.families.gptj:FAMILY", gguf="gptj"),
    "GPTNeoXForCausalLM": Architecture("models.families.gpt_neox:FAMILY", gguf="gptneox"),
    "Gemma2ForCausalLM": Architecture("models.families.gemma:GEMMA2", gguf="gemma2"),
    "Gemma3ForConditionalGeneration": Architecture(
        "models.families.gemma:GEMMA3_MULTIMODAL", gguf_as="Gemma3ForCausalLM"
    ),
    "Gemma3ForCausalLM": Architecture("models.families.gemma:GEMMA3", gguf="gemma3"),
    "GemmaForCausalLM": Architecture("models.families.gemma:GEMMA", gguf="gemma"),
    "Glm4ForCausalLM": Architecture("models.families.glm4:GLM4", gguf="glm4"),
    "GlmForCausalLM": Architecture("models.families.glm4:GLM", gguf="chatglm"),
    "GptOssForCausalLM": Architecture("models.families.gpt_oss:FAMILY", gguf="gpt-oss"),
    "GraniteForCausalLM": Architecture("models.families.granite:FAMILY", gguf="granite"),
    "GraniteMoeForCausalLM": Architecture("models.families.granite:MOE", gguf="granitemoe"),
    "GraniteMoeSharedForCausalLM": Architecture(
        "models.families.granite:MOE", gguf="granitemoe", gguf_key="expert_shared_feed_forward_length"
    ),
    "Lfm2ForCausalLM": Architecture("models.families.lfm2:FAMILY", gguf="lfm2"),
    "Lfm2MoeForCausalLM": Architecture("models.families.lfm2:MOE", gguf="lfm2moe"),
    "Llama4ForCausalLM": Architecture("models.families.llama4:FAMILY", gguf="llama4"),
    "Llama4ForConditionalGeneration": Architecture("models.families.llama4:MULTIMODAL", gguf_as="Llama4ForCausalLM"),
    "LlamaForCausalLM": Architecture("models.families.llama:FAMILY", gguf="llama", seen="SmolLM2-135M-Instruct (GGUF)"),
    "Ministral3ForCausalLM": Architecture("models.families.mistral:MINISTRAL3", gguf="mistral3"),
    "MinistralForCausalLM": Architecture("models.families.mistral:FAMILY", gguf_as="MistralForCausalLM"),
    # before Mistral: files with experts may have a window, too
    "MixtralForCausalLM": Architecture("models.families.mixtral:FAMILY", gguf="llama", gguf_key="expert_count"),
    "MistralForCausalLM": Architecture(
        "models.families.mistral:FAMILY", gguf="llama", gguf_key="attention.sliding_window"
    ),
    "Mistral3ForConditionalGeneration": Architecture(
        "models.families.mistral:MULTIMODAL", gguf_as="Ministral3ForCausalLM"
    ),
    "MptForCausalLM": Architecture("models.families.mpt:FAMILY", gguf="mpt"),
    "NemotronForCausalLM": Architecture("models.families.nemotron:FAMILY", gguf="nemotron"),
    "OPTForCausalLM": Architecture("models.families.opt:FAMILY"),
    "Olmo2ForCausalLM": Architecture("models.families.olmo:OLMO2", gguf="olmo2"),
    "Olmo3ForCausalLM": Architecture("models.families.olmo:OLMO3", gguf="olmo2", gguf_key="attention.sliding_window"),
    "OlmoeForCausalLM": Architecture("models.families.olmo:OLMOE", gguf="olmoe"),
    "Phi3ForCausalLM": Architecture("models.families.phi3:FAMILY", gguf="phi3"),
    "Qwen2ForCausalLM": Architecture(
        "models.families.qwen2:FAMILY", gguf="qwen2", seen="Qwen2.5-Coder 0.5B and 1.5B Instruct (GGUF)"
    ),
    "Qwen2MoeForCausalLM": Architecture("models.families.qwen_moe:QWEN2", gguf="qwen2moe"),
    "Qwen3ForCausalLM": Architecture("models.families.qwen3:FAMILY", gguf="qwen3"),
    "Qwen3MoeForCausalLM": Architecture("models.families.qwen_moe:QWEN3", gguf="qwen3moe"),
    "Qwen3NextForCausalLM": Architecture("models.families.qwen3_next:NEXT", gguf="qwen3next"),
    "Qwen3_5ForCausalLM": Architecture("models.families.qwen3_next:QWEN35", gguf="qwen35"),
    "Qwen3_5MoeForCausalLM": Architecture("models.families.qwen3_next:QWEN35_MOE", gguf="qwen35moe"),
    "SmolLM3ForCausalLM": Architecture("models.families.smollm3:FAMILY", gguf="smollm3"),
    "StableLmForCausalLM": Architecture("models.families.stablelm:FAMILY", gguf="stablelm"),
    "Starcoder2ForCausalLM": Architecture("models.families.starcoder2:FAMILY", gguf="starcoder2"),
}


# Models that do not generate text: encoders, and decoders without an output layer or with a score head.
POOLING_FAMILIES: dict[str, Architecture] = {
    "BertForMaskedLM": Architecture("models.families.bert:BERT"),
    "BertForSequenceClassification": Architecture("models.families.bert:BERT_SCORES"),
    "BertModel": Architecture("models.families.bert:BERT", gguf="bert", seen="all-MiniLM-L6-v2 (folder and GGUF)"),
    "CamembertForMaskedLM": Architecture("models.families.roberta:ROBERTA"),
    "CamembertForSequenceClassification": Architecture("models.families.roberta:ROBERTA_SCORES"),
    "CamembertModel": Architecture("models.families.roberta:ROBERTA"),
    "DistilBertForMaskedLM": Architecture("models.families.distilbert:FAMILY"),
    "DistilBertForSequenceClassification": Architecture("models.families.distilbert:SCORES"),
    "DistilBertModel": Architecture("models.families.distilbert:FAMILY"),
    "LlamaForSequenceClassification": Architecture("models.families.pooling_decoders:LLAMA_SCORES"),
    "LlamaModel": Architecture("models.families.pooling_decoders:LLAMA"),
    "MPNetForMaskedLM": Architecture("models.families.mpnet:FAMILY"),
    "MPNetForSequenceClassification": Architecture("models.families.mpnet:SCORES"),
    "MPNetModel": Architecture("models.families.mpnet:FAMILY"),
    "MistralForSequenceClassification": Architecture("models.families.pooling_decoders:MISTRAL_SCORES"),
    "MistralModel": Architecture("models.families.pooling_decoders:MISTRAL"),
    "ModernBertForMaskedLM": Architecture("models.families.modernbert:FAMILY"),
    "ModernBertForSequenceClassification": Architecture("models.families.modernbert:SCORES"),
    "ModernBertModel": Architecture("models.families.modernbert:FAMILY", gguf="modern-bert"),
    "NomicBertModel": Architecture("models.families.nomic_bert:FAMILY", gguf="nomic-bert"),
    "Qwen2ForSequenceClassification": Architecture("models.families.pooling_decoders:QWEN2_SCORES"),
    "Qwen2Model": Architecture("models.families.pooling_decoders:QWEN2"),
    "Qwen3ForSequenceClassification": Architecture("models.families.pooling_decoders:QWEN3_SCORES"),
    "Qwen3Model": Architecture("models.families.pooling_decoders:QWEN3"),
    "RobertaForMaskedLM": Architecture("models.families.roberta:ROBERTA"),
    "RobertaForSequenceClassification": Architecture(
        "models.families.roberta:ROBERTA_SCORES", gguf_as="XLMRobertaForSequenceClassification"
    ),
    "RobertaModel": Architecture("models.families.roberta:ROBERTA", gguf_as="BertModel"),
    "XLMRobertaForMaskedLM": Architecture("models.families.roberta:ROBERTA"),
    "XLMRobertaForSequenceClassification": Architecture(
        "models.families.roberta:ROBERTA_SCORES", gguf="bert", gguf_tensor="cls.output.weight"
    ),
    "XLMRobertaModel": Architecture("models.families.roberta:ROBERTA", gguf_as="BertModel"),
}
ARCHITECTURES: Mapping[str, Architecture] = {**FAMILIES, **POOLING_FAMILIES}


def family_of(architecture: str) -> Family:
    """Return the family of a Hugging Face class name. Raises UnsupportedModelError, which names similar ones."""
    if architecture not in ARCHITECTURES:
        raise unsupported(architecture)
    module, _, name = ARCHITECTURES[architecture].family.partition(":")
    family: Family = getattr(importlib.import_module(module), name)
    return family


def unsupported(architecture: str, reason: str = "") -> UnsupportedModelError:
    """Return the error for an unsupported architecture, with similar names; reason follows "is not supported"."""
    return UnsupportedModelError(
        f"architecture {quote_value(architecture)} is not supported{reason}; {_nearest(architecture, ARCHITECTURES)}"
    )


def architecture_of_gguf(name: str, metadata: Mapping[str, Any], tensors: Container[str] = ()) -> str:
    """Return the Hugging Face class name for a GGUF file's general.architecture. Raises UnsupportedModelError."""
    candidates = {architecture: entry for architecture, entry in ARCHITECTURES.items() if entry.gguf == name}
    if not candidates:
        known = sorted({entry.gguf for entry in ARCHITECTURES.values() if entry.gguf})
        raise UnsupportedModelError(f"GGUF architecture {quote_value(name)} is not supported; {_nearest(name, known)}")
    for architecture, entry in candidates.items():
        if entry.gguf_key and metadata.get(f"{name}.{entry.gguf_key}"):
            return architecture
        if entry.gguf_tensor in tensors:
            return architecture
    return next(name for name, entry in candidates.items() if entry.gguf_key is None and entry.gguf_tensor is None)


def _nearest(name: str, supported: Iterable[str]) -> str:
    """Return "nearest by name are Qwen2ForCausalLM, ...; docs/models.md lists all that are"."""
    near = difflib.get_close_matches(name, supported, n=3, cutoff=0.0)
    return f"nearest by name are {', '.join(near)}; docs/models.md lists all that are"
