"""Loss, logits and gradients of LoRA pairs against transformers with PEFT, which loads what we save: every family."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Llama4ForConditionalGeneration, PreTrainedModel

from models.attention.reference import ReferenceAttention
from models.config.hf_config import read_json_config
from models.decoder import Decoder
from models.families.multimodal import find_family
from models.families.registry import FAMILIES, MULTIMODAL
from models.training.adapter_file import save_adapter
from models.training.attention import TrainAttention
from models.training.batch import pack, training_caches
from models.training.log_probs import token_log_probs
from models.training.lora import Lora, LoraShape
from tests.helpers.checkpoints import VOCAB_SIZE, load_folder, model_class, random_model, save_model
from tests.helpers.lora import gradient_pairs
from tests.models.families.all_variants import ALL_VARIANTS

peft = pytest.importorskip("peft")


def _one_of_each() -> dict[str, str]:
    """By architecture, the name of its first variant."""
    found: dict[str, str] = {}
    for name, make in ALL_VARIANTS.items():
        found.setdefault(model_class(make()).__name__, name)
    return found


OF_FAMILIES = _one_of_each()
# Other kinds of layers, rows in another order, and names that lead to one place.
FURTHER = (
    *("llama-biases", "falcon-two-norms", "cohere-qk-norm", "deepseek-v3-plain", "llama4-multimodal-mixed"),
    *("qwen2-moe-mixed", "opt-350m", "starcoder-mqa"),
)
# PEFT takes the layers of shared experts, which have these names, for the experts themselves.
CONFUSED = {
    *("deepseek-v2", "deepseek-v3", "deepseek-v3-plain", "qwen3-next", "afmoe", "dots1", "ernie4-5-moe"),
    *("exaone-moe", "glm4-moe", "glm4-moe-lite", "kimi-k2.5", "kimi-linear", "ling-3", "qwen3.5-moe-multimodal"),
    *("cohere2-moe", "hunyuan-moe"),
}
UNTRAINED = {"deepseek-v3.2", "glm-5"}  # an indexer has no gradients: refused (test_load.py)
LENGTHS = (19, 7, 30)
SHAPE = LoraShape(rank=3, alpha=6.0)


def test_every_family_that_generates_is_here() -> None:
    assert FAMILIES.keys() <= OF_FAMILIES.keys() <= FAMILIES.keys() | MULTIMODAL.keys()


@pytest.mark.parametrize("variant", sorted({*OF_FAMILIES.values(), *FURTHER} - CONFUSED - UNTRAINED))
def test_gradients_of_every_pair_are_those_of_peft_which_loads_the_adapter(variant: str, tmp_path: Path) -> None:
    model = random_model(ALL_VARIANTS[variant]())
    decoder, lora = _trainable(model, tmp_path)
    save_adapter(tmp_path / "adapter", lora, "base")
    sequences = _sequences()

    loss, logits = _loss(decoder, sequences)
    loss.backward()
    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"), is_trainable=True).eval()
    expected_loss, expected_logits = _loss_of_peft(adapted, sequences)
    expected_loss.backward()

    torch.testing.assert_close(loss.detach(), expected_loss.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)
    parameters = {name: each for name, each in adapted.named_parameters() if ".lora_" in name}
    found = gradient_pairs(lora)
    assert len(parameters) == 2 * len(found) > 0
    for name, *pair in found:
        for side, gradient in zip("AB", pair, strict=True):
            _check(gradient, parameters[f"base_model.model.{name}.lora_{side}.default.weight"].grad)


@pytest.mark.parametrize("variant", sorted(CONFUSED))
def test_gradients_of_every_pair_are_those_of_the_sum_of_weight_and_pair(variant: str, tmp_path: Path) -> None:
    model = random_model(ALL_VARIANTS[variant]())
    decoder, lora = _trainable(model, tmp_path)
    sequences = _sequences()
    pairs = {name: (a, b) for name, a, b in lora.matrices()}
    for name, (a, b) in pairs.items():
        with torch.no_grad():
            model.get_submodule(name).weight += SHAPE.scale * b @ a

    loss, logits = _loss(decoder, sequences)
    loss.backward()
    expected_loss, expected_logits = _loss_of_model(model, sequences)
    expected_loss.backward()

    torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss.detach(), expected_loss.detach(), rtol=1e-4, atol=1e-4)
    for name, of_a, of_b in gradient_pairs(lora):
        a, b = pairs.pop(name)
        of_sum = model.get_submodule(name).weight.grad
        _check(of_a, SHAPE.scale * b.t() @ of_sum)
        _check(of_b, SHAPE.scale * of_sum @ a.t())
    assert not pairs


def _trainable(model: PreTrainedModel, folder: Path) -> tuple[Decoder, Lora]:
    """A decoder of the model's weights, with pairs that are none that one begins with."""
    save_model(model, folder)
    decoder = load_folder(folder, torch.float32, TrainAttention(ReferenceAttention())).requires_grad_(False)
    family, _ = find_family(read_json_config(folder / "config.json"))
    lora = Lora(decoder, family.names, SHAPE, seed=1)
    with torch.no_grad():
        lora.values.add_(0.1 * torch.randn(lora.values.shape, generator=torch.Generator().manual_seed(2)))
    return decoder, lora


def _check(gradient: torch.Tensor, truth: torch.Tensor | None) -> None:
    assert truth is not None
    torch.testing.assert_close(gradient, truth, rtol=1e-4, atol=1e-4 * max(1.0, float(truth.abs().max())))


def _sequences() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]


def _loss(decoder: Decoder, sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over all tokens but each sequence's first, and the logits that these are predicted by."""
    starts = [sum(LENGTHS[:index]) for index in range(len(LENGTHS))]
    rows = torch.tensor(
        [start + place for start, ids in zip(starts, sequences, strict=True) for place in range(len(ids) - 1)]
    )
    targets = torch.tensor([token_id for ids in sequences for token_id in ids[1:]])
    batch = pack(sequences, decoder, rows)
    hidden = decoder(batch, training_caches(decoder), rows)
    return -token_log_probs(decoder, hidden, targets).log_probs.mean(), decoder.logits(hidden.detach())


def _loss_of_peft(adapted: Any, sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    model = adapted.base_model.model
    return _loss_of_model(
        model.language_model if isinstance(model, Llama4ForConditionalGeneration) else model, sequences
    )


def _loss_of_model(model: Any, sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.cat([model(torch.tensor([ids])).logits[0, :-1].float() for ids in sequences])
    targets = torch.tensor([token_id for ids in sequences for token_id in ids[1:]])
    return torch.nn.functional.cross_entropy(logits, targets), logits.detach()
