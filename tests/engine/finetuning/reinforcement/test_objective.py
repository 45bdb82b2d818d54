"""PolicyObjective: loss and gradients by the definition, and by the formula that trl optimizes."""

from pathlib import Path

import pytest
import torch

from engine.command_io.finetuning.items import Passage, TrainingItem
from engine.finetuning.loss.objective import add_gradients
from engine.finetuning.reinforcement.objective import PolicyObjective
from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.families.registry import family_of
from models.training.adapter_file import save_adapter
from models.training.attention import TrainAttention
from models.training.lora import Lora, LoraShape
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, load_folder, random_model
from tests.helpers.lora import gradient_pairs

peft = pytest.importorskip("peft")

LENGTHS = ((9, 4), (9, 7), (5, 2))  # of prompts and answers
ADVANTAGES = (1.5, -1.0, 0.25)
NUM_TOKENS = 20  # of the step: seven are of answers that nothing is learned from


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    random_model(llama_config()).save_pretrained(path)
    return path


def _trainable(folder: Path) -> tuple[Decoder, Lora]:
    decoder = load_folder(folder, torch.float32, TrainAttention(ReferenceAttention())).requires_grad_(False)
    lora = Lora(decoder, family_of("LlamaForCausalLM").names, LoraShape(3, 6.0), seed=1)
    lora.values.add_(0.1 * torch.randn(lora.values.shape, generator=torch.Generator().manual_seed(2)))
    return decoder, lora


def _items() -> list[TrainingItem]:
    generator = torch.Generator().manual_seed(3)
    return [
        TrainingItem(
            [
                Passage(
                    torch.randint(3, VOCAB_SIZE, (first + count,), generator=generator).tolist(),
                    [(first, first + count)],
                )
            ]
        )
        for first, count in LENGTHS
    ]


def _gradients(decoder: Decoder, lora: Lora, kl_weight: float) -> tuple[dict[str, torch.Tensor], float, float | None]:
    """By the names of PEFT; the loss, and the divergence."""
    items = _items()
    factors = {id(item): advantage for item, advantage in zip(items, ADVANTAGES, strict=True)}
    objective = PolicyObjective(decoder, lora, factors, NUM_TOKENS, kl_weight)
    score = add_gradients(objective, items, decoder, lora)
    gradients = {}
    for name, of_a, of_b in gradient_pairs(lora):
        gradients[f"base_model.model.{name}.lora_A.default.weight"] = of_a
        gradients[f"base_model.model.{name}.lora_B.default.weight"] = of_b
    return gradients, score.loss, objective.kl


def _peft_gradients(lora: Lora, where: Path, kl_weight: float) -> tuple[dict[str, torch.Tensor], float]:
    """Of GRPO's loss as trl computes it (token by token, with the clipped ratio), with the exact divergence; and the
    mean divergence."""
    save_adapter(where, lora, "base")
    model = random_model(llama_config())
    adapted = peft.PeftModel.from_pretrained(model, str(where), is_trainable=True).eval()
    total, far = torch.zeros(()), torch.zeros(())
    for item, advantage in zip(_items(), ADVANTAGES, strict=True):
        (passage,) = item.passages
        first = passage.trained[0][0]
        ids = torch.tensor([passage.ids])
        log_probs = adapted(ids).logits[0, first - 1 : -1].log_softmax(dim=-1)
        with torch.no_grad(), adapted.disable_adapter():
            base = adapted(ids).logits[0, first - 1 : -1].log_softmax(dim=-1)
        chosen = log_probs.gather(1, ids[0, first:, None])[:, 0]
        ratio = torch.exp(chosen - chosen.detach())
        total = total - torch.min(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage).sum()
        far = far + (base.exp() * (base - log_probs)).sum()
    ((total + kl_weight * far) / NUM_TOKENS).backward()
    gradients = {name: each.grad for name, each in adapted.named_parameters() if ".lora_" in name}
    return gradients, float(far.detach()) / sum(count for _, count in LENGTHS)


@pytest.mark.parametrize("kl_weight", [0.0, 0.5])
def test_gradients_are_those_of_grpo(folder: Path, tmp_path: Path, kl_weight: float) -> None:
    decoder, lora = _trainable(folder)

    found, _, kl = _gradients(decoder, lora, kl_weight)
    expected, divergence = _peft_gradients(lora, tmp_path, kl_weight)

    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4 * scale)
    assert kl is None if kl_weight == 0.0 else kl == pytest.approx(divergence, rel=1e-4)


def test_the_base_is_not_pulled_anywhere(folder: Path) -> None:
    decoder = load_folder(folder, torch.float32, TrainAttention(ReferenceAttention())).requires_grad_(False)
    lora = Lora(decoder, family_of("LlamaForCausalLM").names, LoraShape(3, 6.0), seed=1)

    without, with_weight = (_gradients(decoder, lora, weight) for weight in (0.0, 10.0))

    assert with_weight[2] == pytest.approx(0.0, abs=1e-6)
    for name, gradient in without[0].items():
        torch.testing.assert_close(with_weight[0][name], gradient, rtol=0, atol=1e-4)


def test_the_divergence_has_the_gradient_that_grpos_estimate_has_on_average() -> None:
    """Over all tokens that may be drawn, each with its probability."""
    generator = torch.Generator().manual_seed(5)
    logits, of_base = (torch.randn(VOCAB_SIZE, generator=generator, dtype=torch.float64) for _ in range(2))
    base = of_base.log_softmax(dim=0)
    logits.requires_grad_()

    log_probs = logits.log_softmax(dim=0)
    estimates = torch.exp(base - log_probs) - (base - log_probs) - 1  # k3, of each token
    (on_average,) = torch.autograd.grad((log_probs.exp().detach() * estimates).sum(), logits, retain_graph=True)
    (exact,) = torch.autograd.grad((base.exp() * (base - log_probs)).sum(), logits)

    torch.testing.assert_close(exact, on_average)


def test_parts_of_a_step_add_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, lora = _trainable(folder)
    whole = _gradients(decoder, lora, 0.5)

    monkeypatch.setattr("engine.finetuning.loss.objective.MAX_TOKENS", 10)
    apart = _gradients(decoder, lora, 0.5)

    assert apart[1] == pytest.approx(whole[1], rel=1e-5)
    assert apart[2] == pytest.approx(whole[2], rel=1e-5)
    for name, gradient in whole[0].items():
        torch.testing.assert_close(apart[0][name], gradient, rtol=1e-4, atol=1e-5)
