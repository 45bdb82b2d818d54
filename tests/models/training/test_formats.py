"""Every format that serves also trains: gradients through native weights are near those through the same numbers."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.families.registry import family_of
from models.kernels.cpu.library import required_library
from models.training.attention import TrainAttention
from models.training.batch import pack, training_caches
from models.training.log_probs import token_log_probs
from models.training.lora import Lora, LoraShape
from tests.helpers.checkpoints import llama_config, load_folder, load_gguf, random_model
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.quantized import KINDS as QUANTIZED_KINDS
from tests.helpers.quantized import QUANTIZED

KINDS = [
    GGMLQuantizationType[name]
    for name in (
        *("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
        *("IQ4_NL", "IQ4_XS", "IQ3_S", "TQ2_0"),
    )
]
CHECKPOINTS = [name for name in QUANTIZED_KINDS if name != "mxfp4-experts"]  # which is experts alone
IDS = [[5, 9, 33, 61, 8, 20, 4], [11, 3, 9, 40, 7]]  # all below 64, which fixtures have


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_gguf_file_is_trained_on(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    model = random_model(llama_config(hidden_size=256, intermediate_size=256))
    write_gguf(model, tmp_path / "model.gguf", kind)
    backends = CpuAttention(), ReferenceAttention()
    native, exact = (
        load_gguf([tmp_path / "model.gguf"], dtype, TrainAttention(backend))
        for dtype, backend in zip((torch.bfloat16, torch.float32), backends, strict=True)
    )
    _check(native, exact)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_quantized_checkpoint_is_trained_on(name: str) -> None:
    backends = CpuAttention(), ReferenceAttention()
    native, exact = (
        load_folder(QUANTIZED / name, dtype, TrainAttention(backend))
        for dtype, backend in zip((torch.bfloat16, torch.float32), backends, strict=True)
    )
    _check(native, exact)


def _check(native: Decoder, exact: Decoder) -> None:
    required_library()
    found, truth = _gradients(native), _gradients(exact)
    assert float(truth.norm()) > 0.1
    assert float(torch.nn.functional.cosine_similarity(found, truth, dim=0)) > 0.98
    assert float(found.norm() / truth.norm()) == pytest.approx(1.0, abs=0.1)


def _gradients(decoder: Decoder) -> torch.Tensor:
    lora = Lora(decoder.requires_grad_(False), family_of("LlamaForCausalLM").names, LoraShape(4, 8.0), seed=1)
    lora.values.copy_(0.05 * torch.randn(lora.values.shape, generator=torch.Generator().manual_seed(2)))
    lora.gradients.zero_()
    starts, rows, targets = 0, list[int](), list[int]()
    for ids in IDS:
        rows += range(starts, starts + len(ids) - 1)
        targets += ids[1:]
        starts += len(ids)
    at = torch.tensor(rows)
    hidden = decoder(pack(IDS, decoder, at), training_caches(decoder), at)
    (-token_log_probs(decoder, hidden, torch.tensor(targets)).log_probs.mean()).backward()
    return lora.gradients
