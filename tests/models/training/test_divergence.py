"""divergence: its value and gradient by the definition, and what it is where nothing has changed."""

from pathlib import Path

import pytest
import torch

from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.families.registry import family_of
from models.training import head_logits
from models.training.attention import TrainAttention
from models.training.divergence import divergence
from models.training.head_logits import HeadLogits, head_rows
from models.training.lora import Lora, LoraShape
from tests.helpers.checkpoints import load_folder, random_model
from tests.models.families.all_variants import ALL_VARIANTS


@pytest.fixture(params=["llama-gqa", "gemma2", "cohere-qk-norm"])  # plain, softcap, logit scale
def decoder(request: pytest.FixtureRequest, tmp_path: Path) -> Decoder:
    model = random_model(ALL_VARIANTS[request.param]())
    model.save_pretrained(tmp_path)
    made = load_folder(tmp_path, torch.float32, TrainAttention(ReferenceAttention())).requires_grad_(False)
    Lora(made, family_of(type(model).__name__).names, LoraShape(2, 4.0), seed=1)
    return made


def _hidden(decoder: Decoder, seed: int) -> torch.Tensor:
    return torch.randn(7, decoder.spec.hidden_size, generator=torch.Generator().manual_seed(seed))


def test_value_and_gradient_are_those_of_the_definition(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_logits, "_MAX_LOGITS", 3 * decoder.spec.vocab_size)  # in three chunks
    hidden, base_rows = _hidden(decoder, 1).requires_grad_(), head_rows(decoder, _hidden(decoder, 2))

    found = divergence(decoder, hidden, base_rows)
    (gradient,) = torch.autograd.grad((found * torch.arange(7)).sum(), hidden)

    rows = head_rows(decoder, hidden)
    logits = HeadLogits(decoder, rows)
    values = logits.values.detach().requires_grad_()
    base = HeadLogits(decoder, base_rows).values.softmax(dim=1)
    expected = (base * (base.log() - values.log_softmax(dim=1))).sum(dim=1)
    (by_logit,) = torch.autograd.grad((expected * torch.arange(7)).sum(), values)
    (expected_gradient,) = torch.autograd.grad(rows, hidden, logits.gradient(by_logit))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_nothing_pulls_where_nothing_has_changed(decoder: Decoder) -> None:
    hidden = _hidden(decoder, 1).requires_grad_()

    found = divergence(decoder, hidden, head_rows(decoder, hidden).detach())
    (gradient,) = torch.autograd.grad(found.sum(), hidden)

    torch.testing.assert_close(found, torch.zeros(7), atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)
