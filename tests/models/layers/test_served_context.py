"""Rotary scalings that depend on the longest served context get the one that --max-model-len chose."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from engine.config import Device, DType, EngineConfig
from engine.engine import Engine
from engine.errors import StartupError
from engine.protocol import EngineInfo
from engine.startup.build import build_engine
from models.decoder import Decoder
from models.layers.rotary_frequencies import inverse_frequencies
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, random_model

ORIGINAL, CLAIMED = 64, 256
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": ORIGINAL,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with longrope beyond 64 tokens."""
    path = tmp_path_factory.mktemp("longrope")
    random_model(llama_config(rope_parameters=LONGROPE, max_position_embeddings=CLAIMED)).save_pretrained(path)
    words = {f"w{index}": index for index in range(VOCAB_SIZE)}
    Tokenizer(WordLevel(words, "w0")).save(str(path / "tokenizer.json"))
    return path


def build(folder: Path, **options: object) -> tuple[Engine, EngineInfo]:
    config = EngineConfig(
        model=str(folder), dtype=DType.FLOAT32, device=Device.CPU, threads=1, kv_cache_memory_bytes=4 << 20, **options
    )
    return build_engine(config, lambda *_: None)


def decoders(engine: Engine) -> tuple[Decoder, Decoder | None]:
    """Target's and draft's."""
    drafter = engine._speculator._drafter
    return engine._runner._model.decoder, None if drafter is None else drafter._runner._model.decoder


def frequencies(decoder: Decoder, context: int) -> torch.Tensor:
    return inverse_frequencies(decoder.rotary.specs[0][0], torch.device("cpu"), context)


@pytest.mark.parametrize(("max_model_len", "context"), [(ORIGINAL, ORIGINAL), (ORIGINAL + 16, CLAIMED)])
def test_factors_are_those_of_the_served_length(folder: Path, max_model_len: int, context: int) -> None:
    decoder, _ = decoders(build(folder, max_model_len=max_model_len)[0])

    torch.testing.assert_close(decoder.rotary.frequencies[0], frequencies(decoder, context))


def test_draft_model_serves_the_same_context(folder: Path) -> None:
    _, draft = decoders(build(folder, max_model_len=ORIGINAL, draft_model=str(folder))[0])

    assert draft is not None
    torch.testing.assert_close(draft.rotary.frequencies[0], frequencies(draft, ORIGINAL))


def test_scaling_asked_for_serves_longer_contexts(folder: Path) -> None:
    _, info = build(folder, rope_scaling='{"rope_type": "dynamic", "factor": 4.0}')

    assert info.max_model_len == 4 * CLAIMED


def test_field_that_is_not_used_stops_the_start(folder: Path) -> None:
    with pytest.raises(StartupError, match="states max_model_len, which is not used for LlamaForCausalLM"):
        build(folder, hf_overrides='{"max_model_len": 64}')
