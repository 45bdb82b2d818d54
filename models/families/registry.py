"""Supported architectures: Hugging Face class name -> family, imported when first asked for."""

import difflib
import importlib
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig, quoted
from models.errors import UnsupportedModelError
from models.families.name_map import Rules


@dataclass(frozen=True, slots=True)
class Entry:
    """One architecture: where its family is, and which files it has."""

    family: str  # "module:NAME" of a Family, imported when first asked for
    gguf: str | None = None  # general.architecture of its GGUF files; None if there is no such name
    gguf_as: str | None = None  # the architecture that its GGUF files are read as, if that is another
    gguf_key: str | None = None  # metadata that only its files have, if several architectures share `gguf`
    gguf_tensor: str | None = None  # or a tensor that only its files have
    seen: str = ""  # real checkpoints that were run, for docs/models.md


@dataclass(frozen=True, slots=True)
class Family:
    """All that headrace knows of a model family."""

    describe: Callable[[HFConfig], DecoderSpec]
    names: Rules  # tensors of safetensors checkpoints
    gguf_names: Rules | None = None  # None where GGUF has no such architecture
    # A GGUF file's metadata -> the fields of config.json that `describe` reads.
    gguf_fields: Callable[[GGUFMetadata], Mapping[str, Any]] = common_fields
    # config.json -> the configuration of the language model that is served: a part of it in multimodal checkpoints.
    text_config: Callable[[HFConfig], HFConfig] = lambda config: config
    note: str = ""  # what an operator should know of it, said when it starts


FAMILIES: dict[str, Entry] = {
    "BloomForCausalLM": Entry("models.families.bloom:FAMILY", gguf="bloom"),
    "Cohere2ForCausalLM": Entry("models.families.cohere:COHERE2", gguf="cohere2"),
    "CohereForCausalLM": Entry("models.families.cohere:COHERE", gguf="command-r"),
    "DeepseekV2ForCausalLM": Entry("models.families.deepseek:V2", gguf="deepseek2"),
    "DeepseekV3ForCausalLM": Entry("models.families.deepseek:V3", gguf="deepseek2", gguf_key="expert_weights_norm"),
    "Exaone4ForCausalLM": Entry("models.families.exaone4:FAMILY", gguf="exaone4"),
    "FalconForCausalLM": Entry("models.families.falcon:FAMILY", gguf="falcon"),
    "GPT2LMHeadModel": Entry("models.families.gpt2:FAMILY", gguf="gpt2"),
    "GPTBigCodeForCausalLM": Entry("models.families.starcoder:FAMILY", gguf="starcoder"),
    "GPTJForCausalLM": Entry("models.families.gptj:FAMILY", gguf="gptj"),
    "GPTNeoXForCausalLM": Entry("models.families.gpt_neox:FAMILY", gguf="gptneox"),
    "Gemma2ForCausalLM": Entry("models.families.gemma:GEMMA2", gguf="gemma2"),
    "Gemma3ForConditionalGeneration": Entry("models.families.gemma:GEMMA3_MULTIMODAL", gguf_as="Gemma3ForCausalLM"),
    "Gemma3ForCausalLM": Entry("models.families.gemma:GEMMA3", gguf="gemma3"),
    "GemmaForCausalLM": Entry("models.families.gemma:GEMMA", gguf="gemma"),
    "Glm4ForCausalLM": Entry("models.families.glm4:GLM4", gguf="glm4"),
    "GlmForCausalLM": Entry("models.families.glm4:GLM", gguf="chatglm"),
    "GptOssForCausalLM": Entry("models.families.gpt_oss:FAMILY", gguf="gpt-oss"),
    "GraniteForCausalLM": Entry("models.families.granite:FAMILY", gguf="granite"),
    "GraniteMoeForCausalLM": Entry("models.families.granite:MOE", gguf="granitemoe"),
    "GraniteMoeSharedForCausalLM": Entry(
        "models.families.granite:MOE", gguf="granitemoe", gguf_key="expert_shared_feed_forward_length"
    ),
    "Lfm2ForCausalLM": Entry("models.families.lfm2:FAMILY", gguf="lfm2"),
    "Lfm2MoeForCausalLM": Entry("models.families.lfm2:MOE", gguf="lfm2moe"),
    "Llama4ForCausalLM": Entry("models.families.llama4:FAMILY", gguf="llama4"),
    "Llama4ForConditionalGeneration": Entry("models.families.llama4:MULTIMODAL", gguf_as="Llama4ForCausalLM"),
    "LlamaForCausalLM": Entry("models.families.llama:FAMILY", gguf="llama", seen="SmolLM2-135M-Instruct (GGUF)"),
    "Ministral3ForCausalLM": Entry("models.families.mistral:MINISTRAL3", gguf="mistral3"),
    "MinistralForCausalLM": Entry("models.families.mistral:FAMILY", gguf_as="MistralForCausalLM"),
    # before Mistral: files with experts may have a window, too
    "MixtralForCausalLM": Entry("models.families.mixtral:FAMILY", gguf="llama", gguf_key="expert_count"),
    "MistralForCausalLM": Entry("models.families.mistral:FAMILY", gguf="llama", gguf_key="attention.sliding_window"),
    "Mistral3ForConditionalGeneration": Entry("models.families.mistral:MULTIMODAL", gguf_as="Ministral3ForCausalLM"),
    "MptForCausalLM": Entry("models.families.mpt:FAMILY", gguf="mpt"),
    "NemotronForCausalLM": Entry("models.families.nemotron:FAMILY", gguf="nemotron"),
    "OPTForCausalLM": Entry("models.families.opt:FAMILY"),
    "Olmo2ForCausalLM": Entry("models.families.olmo:OLMO2", gguf="olmo2"),
    "Olmo3ForCausalLM": Entry("models.families.olmo:OLMO3", gguf="olmo2", gguf_key="attention.sliding_window"),
    "OlmoeForCausalLM": Entry("models.families.olmo:OLMOE", gguf="olmoe"),
    "Phi3ForCausalLM": Entry("models.families.phi3:FAMILY", gguf="phi3"),
    "Qwen2ForCausalLM": Entry(
        "models.families.qwen2:FAMILY", gguf="qwen2", seen="Qwen2.5-Coder 0.5B and 1.5B Instruct (GGUF)"
    ),
    "Qwen2MoeForCausalLM": Entry("models.families.qwen_moe:QWEN2", gguf="qwen2moe"),
    "Qwen3ForCausalLM": Entry("models.families.qwen3:FAMILY", gguf="qwen3"),
    "Qwen3MoeForCausalLM": Entry("models.families.qwen_moe:QWEN3", gguf="qwen3moe"),
    "Qwen3NextForCausalLM": Entry("models.families.qwen3_next:NEXT", gguf="qwen3next"),
    "Qwen3_5ForCausalLM": Entry("models.families.qwen3_next:QWEN35", gguf="qwen35"),
    "Qwen3_5MoeForCausalLM": Entry("models.families.qwen3_next:QWEN35_MOE", gguf="qwen35moe"),
    "SmolLM3ForCausalLM": Entry("models.families.smollm3:FAMILY", gguf="smollm3"),
    "StableLmForCausalLM": Entry("models.families.stablelm:FAMILY", gguf="stablelm"),
    "Starcoder2ForCausalLM": Entry("models.families.starcoder2:FAMILY", gguf="starcoder2"),
}


# Models that read texts and write none: encoders, and decoders with a head that scores texts.
POOLING_FAMILIES: dict[str, Entry] = {
    "BertForMaskedLM": Entry("models.families.bert:BERT"),
    "BertForSequenceClassification": Entry("models.families.bert:BERT_SCORES"),
    "BertModel": Entry("models.families.bert:BERT", gguf="bert", seen="all-MiniLM-L6-v2 (folder and GGUF)"),
    "CamembertForMaskedLM": Entry("models.families.roberta:ROBERTA"),
    "CamembertForSequenceClassification": Entry("models.families.roberta:ROBERTA_SCORES"),
    "CamembertModel": Entry("models.families.roberta:ROBERTA"),
    "DistilBertForMaskedLM": Entry("models.families.distilbert:FAMILY"),
    "DistilBertForSequenceClassification": Entry("models.families.distilbert:SCORES"),
    "DistilBertModel": Entry("models.families.distilbert:FAMILY"),
    "LlamaForSequenceClassification": Entry("models.families.pooling_decoders:LLAMA_SCORES"),
    "LlamaModel": Entry("models.families.pooling_decoders:LLAMA"),
    "MPNetForMaskedLM": Entry("models.families.mpnet:FAMILY"),
    "MPNetForSequenceClassification": Entry("models.families.mpnet:SCORES"),
    "MPNetModel": Entry("models.families.mpnet:FAMILY"),
    "MistralForSequenceClassification": Entry("models.families.pooling_decoders:MISTRAL_SCORES"),
    "MistralModel": Entry("models.families.pooling_decoders:MISTRAL"),
    "ModernBertForMaskedLM": Entry("models.families.modernbert:FAMILY"),
    "ModernBertForSequenceClassification": Entry("models.families.modernbert:SCORES"),
    "ModernBertModel": Entry("models.families.modernbert:FAMILY", gguf="modern-bert"),
    "NomicBertModel": Entry("models.families.nomic_bert:FAMILY", gguf="nomic-bert"),
    "Qwen2ForSequenceClassification": Entry("models.families.pooling_decoders:QWEN2_SCORES"),
    "Qwen2Model": Entry("models.families.pooling_decoders:QWEN2"),
    "Qwen3ForSequenceClassification": Entry("models.families.pooling_decoders:QWEN3_SCORES"),
    "Qwen3Model": Entry("models.families.pooling_decoders:QWEN3"),
    "RobertaForMaskedLM": Entry("models.families.roberta:ROBERTA"),
    "RobertaForSequenceClassification": Entry(
        "models.families.roberta:ROBERTA_SCORES", gguf_as="XLMRobertaForSequenceClassification"
    ),
    "RobertaModel": Entry("models.families.roberta:ROBERTA", gguf_as="BertModel"),
    "XLMRobertaForMaskedLM": Entry("models.families.roberta:ROBERTA"),
    "XLMRobertaForSequenceClassification": Entry(
        "models.families.roberta:ROBERTA_SCORES", gguf="bert", gguf_tensor="cls.output.weight"
    ),
    "XLMRobertaModel": Entry("models.families.roberta:ROBERTA", gguf_as="BertModel"),
}
ARCHITECTURES: Mapping[str, Entry] = {**FAMILIES, **POOLING_FAMILIES}


def family_of(architecture: str) -> Family:
    """Return the family of a Hugging Face class name; raises UnsupportedModelError with the nearest supported ones."""
    if architecture not in ARCHITECTURES:
        raise unsupported(architecture)
    module, _, name = ARCHITECTURES[architecture].family.partition(":")
    family: Family = getattr(importlib.import_module(module), name)
    return family


def unsupported(architecture: str, reason: str = "") -> UnsupportedModelError:
    """Return the error for one that is not in ARCHITECTURES, with the nearest; reason follows "is not supported"."""
    return UnsupportedModelError(
        f"architecture {quoted(architecture)} is not supported{reason}; {_nearest(architecture, ARCHITECTURES)}"
    )


def architecture_of_gguf(name: str, metadata: Mapping[str, Any], tensors: Container[str] = ()) -> str:
    """Return the Hugging Face class name for a GGUF file's general.architecture; raises UnsupportedModelError."""
    candidates = {architecture: entry for architecture, entry in ARCHITECTURES.items() if entry.gguf == name}
    if not candidates:
        known = sorted({entry.gguf for entry in ARCHITECTURES.values() if entry.gguf})
        raise UnsupportedModelError(f"GGUF architecture {quoted(name)} is not supported; {_nearest(name, known)}")
    for architecture, entry in candidates.items():
        if entry.gguf_key and metadata.get(f"{name}.{entry.gguf_key}"):
            return architecture
        if entry.gguf_tensor in tensors:
            return architecture
    return next(name for name, entry in candidates.items() if entry.gguf_key is None and entry.gguf_tensor is None)


def _nearest(name: str, supported: Iterable[str]) -> str:
    """Such as "nearest by name are Qwen2ForCausalLM, Qwen3ForCausalLM; docs/models.md lists all"."""
    near = difflib.get_close_matches(name, supported, n=3, cutoff=0.0)
    return f"nearest by name are {', '.join(near)}; docs/models.md lists all that are"
