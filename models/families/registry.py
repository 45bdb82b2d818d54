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

USUAL_BODY = "model.language_model."  # the body of a language model within the whole


@dataclass(frozen=True, slots=True)
class Architecture:
    """A supported architecture: the location of its family, and its GGUF files."""

    family: str  # "module:NAME" of a Family in models/families
    gguf: str | None = None  # general.architecture of its GGUF files; None if there is no such name
    gguf_experts: str | None = None  # general.architecture of its GGUF files with experts, if that is another
    gguf_as: str | None = None  # another architecture, as which its GGUF files are read
    gguf_key: str | None = None  # metadata that only its files have, if several architectures share `gguf`
    gguf_tensor: str | None = None  # a tensor that only its files have, if several architectures share `gguf`
    wraps: str | None = None  # the usual language model of a multimodal class; its family is `family`
    body: str = USUAL_BODY  # prefix of that model's body in the multimodal class of transformers
    seen: str = ""  # real checkpoints that were run, for docs/models.md

    @property
    def gguf_names(self) -> tuple[str, ...]:
        """The names that general.architecture of its GGUF files may have."""
        return tuple(filter(None, (self.gguf, self.gguf_experts)))


@dataclass(frozen=True, slots=True)
class Family:
    """The functions and rules by which checkpoints of a model family are read."""

    describe: Callable[[HFConfig], DecoderSpec]
    names: Rules  # tensors of safetensors checkpoints
    gguf_names: Rules | None = None  # None if GGUF has no such architecture
    # Maps a GGUF file's metadata to the fields of config.json that `describe` reads.
    gguf_fields: Callable[[GGUFMetadata], Mapping[str, Any]] = common_fields
    note: str = ""  # a start-up note for operators
    is_wrapped: bool = False  # whether `names` are those of a multimodal checkpoint, too


FAMILIES: dict[str, Architecture] = {
    "AfmoeForCausalLM": Architecture("afmoe:FAMILY", gguf="afmoe"),
    "ApertusForCausalLM": Architecture("apertus:FAMILY", gguf="apertus"),
    "ArceeForCausalLM": Architecture("arcee:FAMILY", gguf="arcee"),
    "BailingHybridForCausalLM": Architecture("bailing_hybrid:FAMILY"),
    "BambaForCausalLM": Architecture("bamba:FAMILY", gguf_as="GraniteMoeHybridForCausalLM"),
    "BitNetForCausalLM": Architecture("bitnet:FAMILY", gguf="bitnet"),
    "BloomForCausalLM": Architecture("bloom:FAMILY", gguf="bloom"),
    "Cohere2ForCausalLM": Architecture("cohere:COHERE2", gguf="cohere2"),
    "Cohere2MoeForCausalLM": Architecture("cohere2_moe:FAMILY", gguf="cohere2moe"),
    "CohereForCausalLM": Architecture("cohere:COHERE", gguf="command-r"),
    "DeepseekV2ForCausalLM": Architecture("deepseek:V2", gguf="deepseek2"),
    "DeepseekV3ForCausalLM": Architecture("deepseek:V3", gguf="deepseek2", gguf_key="expert_weights_norm"),
    "DeepseekV32ForCausalLM": Architecture("deepseek_v32:FAMILY", gguf="deepseek32"),
    "Dots1ForCausalLM": Architecture("dots1:FAMILY", gguf="dots1"),
    "Ernie4_5ForCausalLM": Architecture("ernie4_5:FAMILY", gguf="ernie4_5"),
    "Ernie4_5_MoeForCausalLM": Architecture("ernie4_5_moe:FAMILY", gguf="ernie4_5-moe"),
    "Exaone4ForCausalLM": Architecture("exaone4:FAMILY", gguf="exaone4"),
    "ExaoneMoeForCausalLM": Architecture("exaone_moe:FAMILY", gguf="exaone-moe"),
    "FalconH1ForCausalLM": Architecture("falcon_h1:FAMILY", gguf="falcon-h1"),
    "FalconMambaForCausalLM": Architecture("mamba:FALCON_MAMBA", gguf="mamba", gguf_key="ssm.dt_b_c_rms"),
    "FalconForCausalLM": Architecture("falcon:FAMILY", gguf="falcon"),
    "GPT2LMHeadModel": Architecture("gpt2:FAMILY", gguf="gpt2"),
    "GPTBigCodeForCausalLM": Architecture("starcoder:FAMILY", gguf="starcoder"),
    "GPTJForCausalLM": Architecture("gptj:FAMILY", gguf="gptj"),
    "GPTNeoXForCausalLM": Architecture("gpt_neox:FAMILY", gguf="gptneox"),
    "Gemma2ForCausalLM": Architecture("gemma:GEMMA2", gguf="gemma2"),
    "Gemma3ForCausalLM": Architecture("gemma:GEMMA3", gguf="gemma3"),
    "Gemma3nForCausalLM": Architecture("gemma3n:FAMILY", gguf="gemma3n"),
    "Gemma4ForCausalLM": Architecture("gemma4:FAMILY", gguf="gemma4"),
    "Gemma4UnifiedForCausalLM": Architecture("gemma4:UNIFIED", gguf_as="Gemma4ForCausalLM"),
    "GemmaForCausalLM": Architecture("gemma:GEMMA", gguf="gemma"),
    "Glm4ForCausalLM": Architecture("glm4:GLM4", gguf="glm4"),
    "Glm4MoeForCausalLM": Architecture("glm4_moe:GLM4_MOE", gguf="glm4moe"),
    "Glm4MoeLiteForCausalLM": Architecture("glm4_moe:LITE", gguf_as="DeepseekV3ForCausalLM"),
    "GlmForCausalLM": Architecture("glm4:GLM", gguf="chatglm"),
    "GlmMoeDsaForCausalLM": Architecture("deepseek_v32:GLM", gguf="glm-dsa"),
    "GptOssForCausalLM": Architecture("gpt_oss:FAMILY", gguf="gpt-oss"),
    "GraniteForCausalLM": Architecture("granite:FAMILY", gguf="granite"),
    "GraniteMoeForCausalLM": Architecture("granite:MOE", gguf="granitemoe"),
    "GraniteMoeHybridForCausalLM": Architecture("granite_hybrid:FAMILY", gguf="granitehybrid"),
    "GraniteMoeSharedForCausalLM": Architecture(
        "granite:MOE", gguf="granitemoe", gguf_key="expert_shared_feed_forward_length"
    ),
    "GraniteSWAForCausalLM": Architecture("granite:SWA", gguf="granite_swa"),
    "HYV3ForCausalLM": Architecture("hy_v3:FAMILY", gguf="hy_v3"),
    "HunYuanDenseV1ForCausalLM": Architecture("hunyuan:FAMILY", gguf="hunyuan-dense"),
    "HunYuanMoEV1ForCausalLM": Architecture("hunyuan_moe:FAMILY", gguf="hunyuan-moe"),
    "Jais2ForCausalLM": Architecture("jais2:FAMILY", gguf="jais2"),
    "JambaForCausalLM": Architecture("jamba:FAMILY", gguf="jamba"),
    "KimiLinearForCausalLM": Architecture("kimi_linear:FAMILY", gguf="kimi-linear"),
    "Lfm2ForCausalLM": Architecture("lfm2:FAMILY", gguf="lfm2"),
    "Lfm2MoeForCausalLM": Architecture("lfm2_moe:FAMILY", gguf="lfm2moe"),
    "Lfm3ForCausalLM": Architecture("lfm3:FAMILY"),
    "Llama4ForCausalLM": Architecture("llama4:FAMILY", gguf="llama4"),
    "LlamaForCausalLM": Architecture("llama:FAMILY", gguf="llama", seen="SmolLM2-135M-Instruct (GGUF)"),
    "Mamba2ForCausalLM": Architecture("mamba:MAMBA2", gguf="mamba2"),
    "MambaForCausalLM": Architecture("mamba:MAMBA", gguf="mamba"),
    "Ministral3ForCausalLM": Architecture("mistral:MINISTRAL3", gguf="mistral3"),
    "MiMoV2FlashForCausalLM": Architecture("mimo_v2:FAMILY", gguf="mimo2"),
    "MiniMaxForCausalLM": Architecture("minimax:FAMILY", gguf="minimax-01"),
    "MiniMaxM2ForCausalLM": Architecture("minimax_m2:FAMILY", gguf="minimax-m2"),
    "MinistralForCausalLM": Architecture("mistral:FAMILY", gguf_as="MistralForCausalLM"),
    # before Mistral: files with experts may have a window, too
    "MixtralForCausalLM": Architecture("mixtral:FAMILY", gguf="llama", gguf_key="expert_count"),
    "MistralForCausalLM": Architecture("mistral:FAMILY", gguf="llama", gguf_key="attention.sliding_window"),
    "MptForCausalLM": Architecture("mpt:FAMILY", gguf="mpt"),
    "NemotronForCausalLM": Architecture("nemotron:FAMILY", gguf="nemotron"),
    "NemotronHForCausalLM": Architecture("nemotron_h:FAMILY", gguf="nemotron_h", gguf_experts="nemotron_h_moe"),
    "OPTForCausalLM": Architecture("opt:FAMILY"),
    "Olmo2ForCausalLM": Architecture("olmo2:FAMILY", gguf="olmo2"),
    "Olmo3ForCausalLM": Architecture("olmo2:OLMO3", gguf="olmo2", gguf_key="attention.sliding_window"),
    "OlmoHybridForCausalLM": Architecture("olmo_hybrid:FAMILY"),
    "OlmoForCausalLM": Architecture("olmo:FAMILY", gguf="olmo"),
    "OlmoeForCausalLM": Architecture("olmoe:FAMILY", gguf="olmoe"),
    "Phi3ForCausalLM": Architecture("phi3:FAMILY", gguf="phi3"),
    "PhiForCausalLM": Architecture("phi:FAMILY", gguf="phi2"),
    "PhimoeForCausalLM": Architecture("phimoe:FAMILY", gguf="phimoe"),
    "Qwen2ForCausalLM": Architecture("qwen2:FAMILY", gguf="qwen2", seen="Qwen2.5-Coder 0.5B and 1.5B Instruct (GGUF)"),
    "Qwen2MoeForCausalLM": Architecture("qwen_moe:QWEN2", gguf="qwen2moe"),
    "Qwen3ForCausalLM": Architecture("qwen3:FAMILY", gguf="qwen3"),
    "Qwen3MoeForCausalLM": Architecture("qwen_moe:QWEN3", gguf="qwen3moe"),
    "Qwen3NextForCausalLM": Architecture("qwen3_next:FAMILY", gguf="qwen3next"),
    "Qwen3_5ForCausalLM": Architecture("qwen3_5:FAMILY", gguf="qwen35"),
    "Qwen3_5MoeForCausalLM": Architecture("qwen3_5:MOE", gguf="qwen35moe"),
    "RWKV7ForCausalLM": Architecture("rwkv7:FAMILY", gguf="rwkv7"),
    "RecurrentGemmaForCausalLM": Architecture("recurrent_gemma:FAMILY"),
    "SeedOssForCausalLM": Architecture("seed_oss:FAMILY", gguf="seed_oss"),
    "SmolLM3ForCausalLM": Architecture("smollm3:FAMILY", gguf="smollm3"),
    "StableLmForCausalLM": Architecture("stablelm:FAMILY", gguf="stablelm"),
    "Starcoder2ForCausalLM": Architecture("starcoder2:FAMILY", gguf="starcoder2"),
}


# Classes of published code, which transformers has under another name.
RENAMED: dict[str, Architecture] = {
    "MiniMaxM1ForCausalLM": Architecture("minimax:FAMILY"),
    "MiniMaxText01ForCausalLM": Architecture("minimax:FAMILY"),
    "Rwkv7ForCausalLM": Architecture("rwkv7:FAMILY"),
}


def _wrapper_of(
    language_model: str, family: str | None = None, *, body: str = USUAL_BODY, is_in_gguf: bool = True, **gguf: str
) -> Architecture:
    """Return a multimodal class whose language model usually is `language_model`.

    family: by default that of `language_model`. is_in_gguf: whether GGUF files are read. gguf: `gguf`, `gguf_key` or
    `gguf_as`, if its GGUF files are not those of `language_model`.
    """
    family = family or FAMILIES[language_model].family
    own = FAMILIES[language_model]
    gguf = gguf or ({"gguf_as": language_model} if is_in_gguf and (own.gguf or own.gguf_as) else {})
    return Architecture(family, **gguf, wraps=language_model, body=body)


# Multimodal classes, whose language model alone is served; it may be another than the usual one (multimodal.py).
MULTIMODAL: dict[str, Architecture] = {
    "AudioFlamingo3ForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "AyaVisionForConditionalGeneration": _wrapper_of("Cohere2ForCausalLM"),
    "Cohere2VisionForConditionalGeneration": _wrapper_of("Cohere2ForCausalLM"),
    "DeepseekOcr2ForConditionalGeneration": _wrapper_of("DeepseekV2ForCausalLM", "deepseek:OCR", is_in_gguf=False),
    "DeepseekOCR2ForCausalLM": _wrapper_of("DeepseekV2ForCausalLM", "deepseek:OCR", is_in_gguf=False),
    "DeepseekOCRForCausalLM": _wrapper_of("DeepseekV2ForCausalLM", "deepseek:OCR", is_in_gguf=False),
    "DeepseekVLForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "DeepseekVLHybridForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "Emu3ForConditionalGeneration": _wrapper_of("LlamaForCausalLM", body="model.text_model."),
    "Exaone4_5_ForConditionalGeneration": _wrapper_of("Exaone4ForCausalLM"),
    "FastVlmForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "FunAsrNanoForConditionalGeneration": _wrapper_of("Qwen3ForCausalLM"),
    "Gemma3ForConditionalGeneration": _wrapper_of("Gemma3ForCausalLM", "gemma:GEMMA3_MULTIMODAL"),
    "Gemma3nForConditionalGeneration": _wrapper_of("Gemma3nForCausalLM"),
    "Gemma4ForConditionalGeneration": _wrapper_of("Gemma4ForCausalLM"),
    "Gemma4UnifiedForConditionalGeneration": _wrapper_of("Gemma4UnifiedForCausalLM", gguf_as="Gemma4ForCausalLM"),
    "Glm46VForConditionalGeneration": _wrapper_of(
        "Glm4ForCausalLM", "glm4:GLM4V", gguf_as="Glm4vForConditionalGeneration"
    ),
    "Glm4vForConditionalGeneration": _wrapper_of(
        "Glm4ForCausalLM", "glm4:GLM4V", gguf="glm4", gguf_key="rope.dimension_sections"
    ),
    "Glm4vMoeForConditionalGeneration": _wrapper_of("Glm4MoeForCausalLM", "glm4_moe:GLM4V_MOE"),
    "GlmAsrForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "GlmOcrForConditionalGeneration": _wrapper_of(
        "Glm4ForCausalLM", "glm4:OCR", gguf_as="Glm4vForConditionalGeneration"
    ),
    "GotOcr2ForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "Granite4VisionForConditionalGeneration": _wrapper_of("GraniteForCausalLM"),
    "GraniteDoclingForConditionalGeneration": _wrapper_of("GraniteForCausalLM", body="model.text_model."),
    "GraniteSpeechForConditionalGeneration": _wrapper_of("GraniteForCausalLM"),
    "GraniteSpeechPlusForConditionalGeneration": _wrapper_of("GraniteForCausalLM"),
    "HunYuanVLForConditionalGeneration": _wrapper_of("HunYuanDenseV1ForCausalLM", is_in_gguf=False),
    "Idefics2ForConditionalGeneration": _wrapper_of("MistralForCausalLM", body="model.text_model."),
    "Idefics3ForConditionalGeneration": _wrapper_of("LlamaForCausalLM", body="model.text_model."),
    "InternVLForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "JanusForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "Kimi_K25ForConditionalGeneration": _wrapper_of("DeepseekV3ForCausalLM"),
    "KimiK25ForConditionalGeneration": _wrapper_of("DeepseekV3ForCausalLM"),
    "Lfm2VlForConditionalGeneration": _wrapper_of("Lfm2ForCausalLM"),
    "Lfm3VlForConditionalGeneration": _wrapper_of("Lfm3ForCausalLM"),
    "LightOnOcrForConditionalGeneration": _wrapper_of("Qwen3ForCausalLM"),
    "Llama4ForConditionalGeneration": _wrapper_of("Llama4ForCausalLM", body="language_model.model."),
    "LlavaForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "LlavaNextForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "LlavaNextVideoForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "LlavaOnevisionForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "MiMoV2ForCausalLM": _wrapper_of("MiMoV2FlashForCausalLM", body="model."),
    "MiniCPMOcrForConditionalGeneration": _wrapper_of("Qwen3_5ForCausalLM"),
    "MiniCPMV4_6ForConditionalGeneration": _wrapper_of("Qwen3_5ForCausalLM"),
    "MiniCPMV4_7ForConditionalGeneration": _wrapper_of("Qwen3_5ForCausalLM"),
    "Mistral3ForConditionalGeneration": _wrapper_of("Ministral3ForCausalLM"),
    "MossTranscribeDiarizeForConditionalGeneration": _wrapper_of("Qwen3ForCausalLM"),
    "MusicFlamingoForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "NemotronH_Omni_Reasoning_V3": _wrapper_of("NemotronHForCausalLM", body="language_model.model."),
    "OmniASRForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "Ovis2ForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "PaddleOCRVLForConditionalGeneration": _wrapper_of("Ernie4_5ForCausalLM", "ernie4_5:PADDLE_OCR", is_in_gguf=False),
    "PerceptionLMForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "QianfanOCRForConditionalGeneration": _wrapper_of("Qwen3ForCausalLM"),
    "Qwen2_5_VLForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM", gguf="qwen2vl"),
    "Qwen2_5OmniForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM", body="thinker.model.language_model."),
    "Qwen2_5OmniThinkerForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "Qwen2AudioForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "Qwen2VLForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM", gguf_as="Qwen2_5_VLForConditionalGeneration"),
    "Qwen3_5ForConditionalGeneration": _wrapper_of("Qwen3_5ForCausalLM"),
    "Qwen3_5MoeForConditionalGeneration": _wrapper_of("Qwen3_5MoeForCausalLM"),
    "Qwen3ASRForConditionalGeneration": _wrapper_of("Qwen3ForCausalLM"),
    "Qwen3OmniMoeForConditionalGeneration": _wrapper_of(
        "Qwen3MoeForCausalLM", "qwen_moe:QWEN3_VL", body="thinker.model.language_model."
    ),
    "Qwen3OmniMoeThinkerForConditionalGeneration": _wrapper_of("Qwen3MoeForCausalLM", "qwen_moe:QWEN3_VL"),
    "Qwen3VLForConditionalGeneration": _wrapper_of("Qwen3ForCausalLM", gguf="qwen3vl"),
    "Qwen3VLMoeForConditionalGeneration": _wrapper_of("Qwen3MoeForCausalLM", "qwen_moe:QWEN3_VL", gguf="qwen3vlmoe"),
    "SmolVLMForConditionalGeneration": _wrapper_of("LlamaForCausalLM", body="model.text_model."),
    "VibeVoiceAsrForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "VideoLlama3ForConditionalGeneration": _wrapper_of("Qwen2ForCausalLM"),
    "VideoLlavaForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "VipLlavaForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
    "VoxtralForConditionalGeneration": _wrapper_of("LlamaForCausalLM"),
}

# Models that do not generate text: encoders, and decoders without an output layer or with a score head.
POOLING_FAMILIES: dict[str, Architecture] = {
    "BertForMaskedLM": Architecture("bert:BERT"),
    "BertForSequenceClassification": Architecture("bert:BERT_SCORES"),
    "BertModel": Architecture("bert:BERT", gguf="bert", seen="all-MiniLM-L6-v2 (folder and GGUF)"),
    "CamembertForMaskedLM": Architecture("roberta:ROBERTA"),
    "CamembertForSequenceClassification": Architecture("roberta:ROBERTA_SCORES"),
    "CamembertModel": Architecture("roberta:ROBERTA"),
    "DistilBertForMaskedLM": Architecture("distilbert:FAMILY"),
    "DistilBertForSequenceClassification": Architecture("distilbert:SCORES"),
    "DistilBertModel": Architecture("distilbert:FAMILY"),
    "LlamaForSequenceClassification": Architecture("pooling_decoders:LLAMA_SCORES"),
    "LlamaModel": Architecture("pooling_decoders:LLAMA"),
    "MPNetForMaskedLM": Architecture("mpnet:FAMILY"),
    "MPNetForSequenceClassification": Architecture("mpnet:SCORES"),
    "MPNetModel": Architecture("mpnet:FAMILY"),
    "MistralForSequenceClassification": Architecture("pooling_decoders:MISTRAL_SCORES"),
    "MistralModel": Architecture("pooling_decoders:MISTRAL"),
    "ModernBertForMaskedLM": Architecture("modernbert:FAMILY"),
    "ModernBertForSequenceClassification": Architecture("modernbert:SCORES"),
    "ModernBertModel": Architecture("modernbert:FAMILY", gguf="modern-bert"),
    "NomicBertModel": Architecture("nomic_bert:FAMILY", gguf="nomic-bert"),
    "Qwen2ForSequenceClassification": Architecture("pooling_decoders:QWEN2_SCORES"),
    "Qwen2Model": Architecture("pooling_decoders:QWEN2"),
    "Qwen3ForSequenceClassification": Architecture("pooling_decoders:QWEN3_SCORES"),
    "Qwen3Model": Architecture("pooling_decoders:QWEN3"),
    "RobertaForMaskedLM": Architecture("roberta:ROBERTA"),
    "RobertaForSequenceClassification": Architecture(
        "roberta:ROBERTA_SCORES", gguf_as="XLMRobertaForSequenceClassification"
    ),
    "RobertaModel": Architecture("roberta:ROBERTA", gguf_as="BertModel"),
    "XLMRobertaForMaskedLM": Architecture("roberta:ROBERTA"),
    "XLMRobertaForSequenceClassification": Architecture(
        "roberta:ROBERTA_SCORES", gguf="bert", gguf_tensor="cls.output.weight"
    ),
    "XLMRobertaModel": Architecture("roberta:ROBERTA", gguf_as="BertModel"),
}
ARCHITECTURES: Mapping[str, Architecture] = {**FAMILIES, **RENAMED, **MULTIMODAL, **POOLING_FAMILIES}


def family_of(architecture: str) -> Family:
    """Return the family of a Hugging Face class name. Raises UnsupportedModelError if it is unknown."""
    if architecture not in ARCHITECTURES:
        raise unsupported(architecture)
    module, _, name = ARCHITECTURES[architecture].family.partition(":")
    family: Family = getattr(importlib.import_module(f"models.families.{module}"), name)
    return family


def unsupported(architecture: str, reason: str = "") -> UnsupportedModelError:
    """Return the error for an unsupported architecture, with similar names; reason follows "is not supported"."""
    nearest = nearest_names(architecture, ARCHITECTURES)
    return UnsupportedModelError(f"architecture {quote_value(architecture)} is not supported{reason}; {nearest}")


def architecture_of_gguf(name: str, metadata: Mapping[str, Any], tensors: Container[str] = ()) -> str:
    """Return the Hugging Face class name for a GGUF file's general.architecture.

    Raises UnsupportedModelError if the architecture is not supported.
    """
    candidates = {architecture: entry for architecture, entry in ARCHITECTURES.items() if name in entry.gguf_names}
    if not candidates:
        raise UnsupportedModelError(
            f"GGUF architecture {quote_value(name)} is not supported; {nearest_names(name, gguf_architectures())}"
        )
    for architecture, entry in candidates.items():
        if entry.gguf_key and metadata.get(f"{name}.{entry.gguf_key}"):
            return architecture
        if entry.gguf_tensor in tensors:
            return architecture
    return next(name for name, entry in candidates.items() if entry.gguf_key is None and entry.gguf_tensor is None)


def gguf_architectures() -> list[str]:
    return sorted({name for entry in ARCHITECTURES.values() for name in entry.gguf_names})


def nearest_names(name: str, supported: Iterable[str]) -> str:
    """Return the words of an error for the supported architectures with names like `name`."""
    near = difflib.get_close_matches(name, supported, n=3, cutoff=0.0)
    return f"nearest by name are {', '.join(near)}; docs/models.md lists all that are"
