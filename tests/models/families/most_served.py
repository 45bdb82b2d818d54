"""The sixty architectures that are served most, and how each is served here: for docs/models.md and a test."""

from enum import StrEnum

from models.families.registry import FAMILIES, MULTIMODAL, Architecture

# Names of models by which an architecture is known. Chosen in June 2026 by downloads, GGUF files, recommended lists of
# other servers, and requests for support.
MOST_SERVED = {
    "AfmoeForCausalLM": "Trinity",
    "ApertusForCausalLM": "Apertus",
    "Cohere2ForCausalLM": "Command A, Command R7B",
    "DeepseekV2ForCausalLM": "DeepSeek V2, Coder V2",
    "DeepseekV3ForCausalLM": "DeepSeek V3, R1, V3.1, Kimi K2",
    "DeepseekV32ForCausalLM": "DeepSeek V3.2",
    "DeepseekV4ForCausalLM": "DeepSeek V4",
    "Ernie4_5ForCausalLM": "ERNIE 4.5 0.3B",
    "Ernie4_5_MoeForCausalLM": "ERNIE 4.5",
    "Exaone4ForCausalLM": "EXAONE 4",
    "FalconH1ForCausalLM": "Falcon-H1",
    "GPT2LMHeadModel": "GPT-2",
    "GPTNeoXForCausalLM": "Pythia",
    "Gemma2ForCausalLM": "Gemma 2",
    "Gemma3ForCausalLM": "Gemma 3 270M and 1B",
    "Gemma3ForConditionalGeneration": "Gemma 3",
    "Gemma3nForConditionalGeneration": "Gemma 3n",
    "Gemma4ForConditionalGeneration": "Gemma 4",
    "Gemma4UnifiedForConditionalGeneration": "Gemma 4 12B",
    "Glm4ForCausalLM": "GLM-4",
    "Glm4MoeForCausalLM": "GLM-4.5 to 4.7",
    "Glm4MoeLiteForCausalLM": "GLM-4.7-Flash",
    "GlmMoeDsaForCausalLM": "GLM-5",
    "GptOssForCausalLM": "gpt-oss",
    "GraniteForCausalLM": "Granite 3",
    "GraniteMoeHybridForCausalLM": "Granite 4",
    "HYV3ForCausalLM": "Hy3",
    "HunYuanDenseV1ForCausalLM": "Hunyuan",
    "JambaForCausalLM": "Jamba",
    "KimiK25ForConditionalGeneration": "Kimi K2.5, K2.6",
    "KimiLinearForCausalLM": "Kimi Linear",
    "Lfm2ForCausalLM": "LFM2",
    "Lfm2MoeForCausalLM": "LFM2 8B-A1B",
    "Lfm3ForCausalLM": "LFM3",
    "Llama4ForConditionalGeneration": "Llama 4",
    "LlamaForCausalLM": "Llama 2 and 3, SmolLM2, Yi",
    "Mamba2ForCausalLM": "Mamba-2, Codestral Mamba",
    "MambaForCausalLM": "Mamba",
    "MiMoV2FlashForCausalLM": "MiMo V2 Flash",
    "MiniMaxM2ForCausalLM": "MiniMax M2",
    "Mistral3ForConditionalGeneration": "Mistral Small 3, Ministral 3",
    "MistralForCausalLM": "Mistral 7B, Nemo",
    "MixtralForCausalLM": "Mixtral",
    "NemotronHForCausalLM": "Nemotron 3, Nemotron-H",
    "OPTForCausalLM": "OPT",
    "Olmo2ForCausalLM": "OLMo 2",
    "Olmo3ForCausalLM": "OLMo 3",
    "Phi3ForCausalLM": "Phi-3, Phi-4",
    "PhiForCausalLM": "Phi-1.5, Phi-2",
    "Qwen2ForCausalLM": "Qwen2, Qwen2.5",
    "Qwen2_5_VLForConditionalGeneration": "Qwen2.5-VL",
    "Qwen3ForCausalLM": "Qwen3",
    "Qwen3MoeForCausalLM": "Qwen3 30B-A3B, Qwen3-Coder",
    "Qwen3NextForCausalLM": "Qwen3-Next",
    "Qwen3VLForConditionalGeneration": "Qwen3-VL",
    "Qwen3VLMoeForConditionalGeneration": "Qwen3-VL 30B-A3B",
    "Qwen3_5ForConditionalGeneration": "Qwen3.5, Qwen3.6",
    "Qwen3_5MoeForConditionalGeneration": "Qwen3.5 and 3.6 with experts",
    "SeedOssForCausalLM": "Seed-OSS",
    "SmolLM3ForCausalLM": "SmolLM3",
}


class ServedAs(StrEnum):
    """How an architecture is served."""

    FAMILY = "a family"
    LANGUAGE_MODEL = "text alone, by a family"
    NO_FAMILY = "no family"


def served_as(architecture: str) -> ServedAs:
    if architecture in FAMILIES:
        return ServedAs.FAMILY
    return ServedAs.LANGUAGE_MODEL if architecture in MULTIMODAL else ServedAs.NO_FAMILY


def has_gguf_files(architecture: str) -> bool:
    """Whether GGUF files of the architecture are read."""
    entry: Architecture | None = {**FAMILIES, **MULTIMODAL}.get(architecture)
    return entry is not None and (entry.gguf is not None or entry.gguf_as is not None)


# What becomes of the rest.
WITHOUT_FAMILY = {"DeepseekV4ForCausalLM": "refused: compressed keys, hyper-connections"}
