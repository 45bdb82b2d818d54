"""LAYER_KINDS: a tiny model for each kind of layer that has keys and values, or states, of its own kind."""

from collections.abc import Callable

from transformers import PretrainedConfig

from models.architecture.decoder import DecoderSpec
from tests.helpers.checkpoints import llama_config, mistral_config
from tests.helpers.techniques import described
from tests.models.families.deepseek_v32_variants import DEEPSEEK_V32_VARIANTS
from tests.models.families.deepseek_variants import deepseek_v3
from tests.models.families.gemma4_variants import gemma4
from tests.models.families.kimi_linear_variants import kimi_linear
from tests.models.families.mimo_v2_variants import mimo_v2
from tests.models.families.minimax_variants import minimax
from tests.models.families.recurrent_gemma_variants import recurrent_gemma
from tests.models.families.recurrent_variants import lfm2, qwen35
from tests.models.families.rwkv7_variants import rwkv7
from tests.models.families.state_space_variants import falcon_h1, granite_hybrid, jamba, mamba

LAYER_KINDS: dict[str, Callable[[], PretrainedConfig]] = {
    "dense attention": llama_config,
    "windows": mistral_config,
    "windows of another shape": mimo_v2,
    "latent attention": deepseek_v3,
    "an indexer": DEEPSEEK_V32_VARIANTS["glm-5.2"],
    "shared keys and values": gemma4,
    "delta rule": qwen35,
    "decays by channel": kimi_linear,
    "state spaces": granite_hybrid,
    "state spaces beside attention": falcon_h1,
    "selective scans": jamba,
    "selective scans without attention": mamba,
    "gated linear units": recurrent_gemma,
    "lightning attention": minimax,
    "generalized delta rule and token shifts": rwkv7,
    "short convolutions": lfm2,
}


def spec_of(kind: str) -> DecoderSpec:
    """The spec of a kind's model. Imports no model of transformers."""
    return described(LAYER_KINDS[kind]())[1]
