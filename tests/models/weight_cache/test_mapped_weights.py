"""Weights that a start has cached, mapped by the next one: the same model, bit for bit, of every family and format."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.kernels.cpu.library import kernel_library
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedWeights
from models.loading.load import build_decoder
from models.loading.open import open_model
from models.quant.tensor import Encoding
from models.sources.resolve import ModelFiles
from models.weight_cache.cache import WeightCache
from models.weight_cache.entry import cached_weights, files_state
from tests.helpers.checkpoints import cpu_compute, llama_config, random_model, save_model
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.quantized import KINDS, QUANTIZED
from tests.models.families.all_variants import ALL_VARIANTS

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")

LLAMAS = [kind for kind in KINDS if not kind.startswith("mxfp4-experts")]
PROMPT = torch.randint(48, (24,), generator=torch.Generator().manual_seed(1)).tolist()
BACKEND = ReferenceAttention()
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}


def built(files: ModelFiles, folder: Path, weights: WeightOptions | None = None) -> tuple[Decoder, LoadedWeights]:
    cache, state = WeightCache(folder, min_bytes=0, requires_huge_pages=False), files_state(files)
    assert state is not None
    cached = cached_weights(cache, files, state, weights or WeightOptions(), {})
    compute = cpu_compute(torch.bfloat16, BACKEND)
    return build_decoder(open_model(files), compute, weights or WeightOptions(), lambda *_: None, cached)


def check_both_starts(files: ModelFiles, folder: Path, weights: WeightOptions | None = None) -> LoadedWeights:
    """Check that the second start has the weights of the first, and return its report of them."""
    first, first_loaded = built(files, folder, weights)
    expected = logits_of(first)
    second, loaded = built(files, folder, weights)

    assert first_loaded.mapped_bytes == 0
    assert torch.equal(logits_of(second), expected)
    assert expected.isfinite().all()
    assert second.weight_bytes() == first.weight_bytes()
    assert loaded.formats == first_loaded.formats
    return loaded


def logits_of(decoder: Decoder) -> torch.Tensor:
    """Return logits of a prompt and of one more token in a separate step, since kernels depend on the rows."""
    run, sequence = PagedRun(decoder), PagedSequence()
    return torch.cat([*run.step([(sequence, PROMPT)]), *run.step([(sequence, PROMPT[:1])])])


@pytest.mark.parametrize("name", ALL_VARIANTS)
def test_every_family(name: str, tmp_path: Path) -> None:
    save_model(random_model(ALL_VARIANTS[name]()).to(torch.bfloat16), tmp_path)
    loaded = check_both_starts(ModelFiles(tmp_path, (), name), tmp_path / "cache")
    assert loaded.mapped_bytes > 0
    assert "mapped from" in loaded.note


@pytest.mark.parametrize("kind", LLAMAS)
def test_every_checkpoint_format(kind: str, tmp_path: Path) -> None:
    loaded = check_both_starts(ModelFiles(QUANTIZED / kind, (), kind), tmp_path)
    assert loaded.mapped_bytes > 0


@pytest.mark.parametrize("encoding", [None, *(Encoding[name] for name in ("INT4", "INT8", "FP8_E4M3", "NF4"))])
def test_weights_that_are_quantized_on_load(encoding: Encoding | None, tmp_path: Path) -> None:
    random_model(llama_config(tie_word_embeddings=True)).to(torch.bfloat16).save_pretrained(tmp_path)
    weights = WeightOptions(quantize_to=encoding, includes_head=encoding is not None)
    loaded = check_both_starts(ModelFiles(tmp_path, (), "m"), tmp_path / "cache", weights)
    assert loaded.mapped_bytes > 0


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K", "F16", "BF16"])
def test_every_gguf_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(random_model(llama_config(**WIDE)), path, GGMLQuantizationType[name])
    loaded = check_both_starts(ModelFiles(None, (path,), name), tmp_path / "cache")
    assert loaded.mapped_bytes > 0
