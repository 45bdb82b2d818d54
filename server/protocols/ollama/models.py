"""Lists and details of served models in Ollama's formats."""

import hashlib
from typing import Any

import msgspec
from msgspec import UNSET

from engine.protocol import EngineInfo
from server.protocols.ollama.formatter import timestamp
from server.protocols.ollama.loading import tagged
from server.schemas.ollama_answers import OllamaDetails, OllamaModel, OllamaRunningModel, OllamaShown
from server.text_model import TextModel

_NEVER = "9999-12-31T23:59:59Z"


def model_card(name: str, info: EngineInfo | None, created_s: int) -> OllamaModel:
    """Return the model's entry in the list of models. info: None while the model is loading."""
    card = OllamaModel(name=tagged(name), model=tagged(name), modified_at=timestamp(created_s))
    if info is not None:
        card.size = info.weight_bytes
        card.digest = _digest(info)
        card.details = _details(info)
    return card


def running_model(name: str, info: EngineInfo, expires_s: float | None = None) -> OllamaRunningModel:
    """Return the model's entry in the list of loaded models. expires_s: Unix time of its unloading; None for never."""
    return OllamaRunningModel(
        name=tagged(name),
        model=tagged(name),
        size=info.weight_bytes,
        size_vram=0 if info.device == "cpu" else info.weight_bytes,
        digest=_digest(info),
        details=_details(info),
        expires_at=_NEVER if expires_s is None else timestamp(expires_s),
        context_length=info.max_model_len,
    )


def shown_model(info: EngineInfo, text_model: TextModel, capabilities: list[str], created_s: int) -> OllamaShown:
    template = info.tokenizer.chat_template if text_model.chat is None else text_model.chat.template.source
    return OllamaShown(
        parameters="\n".join(f"{name:<30} {value:g}" for name, value in sorted(info.generation_defaults.items())),
        template=UNSET if template is None else template,
        details=_details(info),
        model_info=_model_info(info),
        capabilities=capabilities,
        modified_at=timestamp(created_s),
    )


def _details(info: EngineInfo) -> OllamaDetails:
    family = _family(info)
    # The format of most weights; norms and others have another one.
    level = max(info.weight_formats, key=info.weight_formats.__getitem__, default=None)
    return OllamaDetails(family=family, families=[family], quantization_level=UNSET if level is None else level.upper())


def _model_info(info: EngineInfo) -> dict[str, Any]:
    """Return the model's metadata under GGUF's names."""
    tokenizer = info.tokenizer
    family = _family(info)
    found: dict[str, Any] = {
        "general.architecture": family,
        f"{family}.context_length": info.max_model_len,
        f"{family}.vocab_size": info.vocab_size,
        "tokenizer.ggml.add_bos_token": tokenizer.add_bos_token,
    }
    if info.pooling is not None:
        found[f"{family}.embedding_length"] = info.pooling.dimensions
    if tokenizer.bos_token_id is not None:
        found["tokenizer.ggml.bos_token_id"] = tokenizer.bos_token_id
    if tokenizer.eos_token_ids:
        found["tokenizer.ggml.eos_token_id"] = tokenizer.eos_token_ids[0]
    return found


def _family(info: EngineInfo) -> str:
    """Return the architecture in GGUF's form: qwen2 for Qwen2ForCausalLM."""
    return info.architecture.removesuffix("ForCausalLM").lower()


def _digest(info: EngineInfo) -> str:
    """Return a digest that differs between models and formats, and is the same at every start with the same options."""
    known = (
        info.architecture,
        info.dtype,
        info.vocab_size,
        info.weight_bytes,
        info.weight_formats,
        hashlib.sha256(info.tokenizer.tokenizer_json).hexdigest(),
        info.tokenizer.chat_template,
    )
    return hashlib.sha256(msgspec.json.encode(known)).hexdigest()
