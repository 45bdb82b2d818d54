"""ERNIE 4.5 and PaddleOCR-VL: Llama with neighboring rotary pairs, and biases by one flag."""

from typing import Any

from models.architecture.decoder import DecoderSpec
from models.checkpoints.gguf.fields import common_fields
from models.checkpoints.gguf.metadata import GGUFMetadata
from models.config.hf_config import HFConfig
from models.families import cohere, llama
from models.families.registry import Family


def describe(config: HFConfig, default_head_dim: int | None = 128) -> DecoderSpec:
    """Return the spec. default_head_dim: None for the hidden size over the heads."""
    has_bias = config.boolean("use_bias", False)
    biases = {"attention_bias": has_bias, "mlp_bias": has_bias}
    return llama.describe(
        config.with_fields(biases),
        llama.Defaults(head_dim=default_head_dim, rope_theta=500000.0, eps=1e-5, activation="silu", has_tied_head=True),
    )


def gguf_fields(file: GGUFMetadata) -> dict[str, Any]:
    fields = common_fields(file)
    return {**fields, "use_bias": fields["attention_bias"]}


FAMILY = Family(describe, cohere.NAMES, llama.GGUF_NAMES, gguf_fields)
PADDLE_OCR = Family(describe, llama.NAMES)  # keeps the halves of rotated heads apart
