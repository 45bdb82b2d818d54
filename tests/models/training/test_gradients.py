"""Loss and gradients of LoRA pairs against transformers: by its gradient of W + scale B A, with respect to B and A."""

from pathlib import Path

import pytest
import torch
from transformers import Llama4ForConditionalGeneration, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.families.registry import family_of
from models.training.attention import TrainAttention
from models.training.batch import pack, training_caches
from models.training.log_probs import token_log_probs
from models.training.lora import Lora, LoraShape
from tests.helpers.checkpoints import VOCAB_SIZE, load_folder, random_model
from tests.models.families.all_variants import ALL_VARIANTS

# One of each kind of layer, of rows in another order, and of names that lead to one place.
VARIANTS = (
    *("llama-gqa", "gpt2", "gptj", "gpt-neox", "bloom", "mpt", "falcon-two-norms", "gemma2", "cohere-qk-norm", "phi3"),
    *("deepseek-v2", "deepseek-v3-plain", "llama4-multimodal-mixed", "gpt-oss", "glm4", "qwen3-next", "lfm2-moe"),
    *("starcoder2", "granite-moe-shared", "olmo2", "opt"),
)
LENGTHS = (19, 7, 30)
SHAPE = LoraShape(rank=3, alpha=6.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_every_pair_are_those_of_transformers(variant: str, tmp_path: Path) -> None:
    model = random_model(ALL_VARIANTS[variant]())
    model.save_pretrained(tmp_path)
    sequences = _sequences()
    decoder = load_folder(tmp_path, torch.float32, TrainAttention(ReferenceAttention()))
    lora = Lora(decoder.requires_grad_(False), family_of(type(model).__name__).names, SHAPE, seed=1)
    with torch.no_grad():
        lora.values.add_(0.1 * torch.randn(lora.values.shape, generator=torch.Generator().manual_seed(2)))

    loss = _loss(decoder, sequences)
    loss.backward()
    expected_loss, expected = _loss_and_gradients(model, lora, sequences)

    torch.testing.assert_close(loss.detach(), expected_loss, rtol=1e-4, atol=1e-4)
    found = {name: (a, b) for name, a, b in lora.gradient_matrices()}
    assert found.keys() == expected.keys()
    for name, pair in expected.items():
        for gradient, truth in zip(found[name], pair, strict=True):
            torch.testing.assert_close(gradient, truth, rtol=1e-4, atol=1e-4 * max(1.0, float(truth.abs().max())))


def _sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]


def _loss(decoder: Decoder, sequences: list[list[int]]) -> torch.Tensor:
    """Mean over all tokens but each sequence's first."""
    starts = [sum(LENGTHS[:index]) for index in range(len(LENGTHS))]
    rows = torch.tensor(
        [start + place for start, ids in zip(starts, sequences, strict=True) for place in range(len(ids) - 1)]
    )
    targets = torch.tensor([token_id for ids in sequences for token_id in ids[1:]])
    batch = pack(sequences, decoder, rows)
    hidden = decoder(batch, training_caches(decoder), rows)
    return -token_log_probs(decoder, hidden, targets).log_probs.mean()


def _loss_and_gradients(
    model: PreTrainedModel, lora: Lora, sequences: list[list[int]]
) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    pairs = {name: (a, b) for name, a, b in lora.matrices()}
    for name, (a, b) in pairs.items():
        module = model.get_submodule(name)
        delta = SHAPE.scale * b @ a
        with torch.no_grad():
            module.weight += delta.t() if isinstance(module, Conv1D) else delta
    computed = model.language_model if isinstance(model, Llama4ForConditionalGeneration) else model
    total, count = torch.zeros(()), 0
    for ids in sequences:
        row = torch.tensor([ids])
        logits = computed(row).logits[0, :-1].float()
        total = total + torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="sum")
        count += len(ids) - 1
    (total / count).backward()
    gradients = {}
    for name, (a, b) in pairs.items():
        module = model.get_submodule(name)
        by_weight = module.weight.grad.t() if isinstance(module, Conv1D) else module.weight.grad
        gradients[name] = SHAPE.scale * b.t() @ by_weight, SHAPE.scale * by_weight @ a.t()
    return (total / count).detach(), gradients
