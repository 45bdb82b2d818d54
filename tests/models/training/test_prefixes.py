"""Sequences that continue another one have the values and gradients of the whole text."""

from pathlib import Path

import pytest
import torch

from models.attention.reference import ReferenceAttention
from models.families.registry import family_of
from models.training import attention
from models.training.attention import TrainAttention
from models.training.batch import pack, shares_prefixes, training_caches
from models.training.log_probs import token_log_probs
from models.training.lora import Lora, LoraShape
from tests.helpers.checkpoints import VOCAB_SIZE, load_folder, random_model
from tests.models.families.all_variants import ALL_VARIANTS

# Plain, softcap and a window, ALiBi, latent attention, chunks.
VARIANTS = ["llama-gqa", "gemma2", "bloom", "deepseek-v2", "llama4-multimodal-mixed"]


def _ids(seed: int, length: int) -> list[int]:
    return torch.randint(3, VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("most_short", [0, 128])  # by the fused operator, and by products of matrices
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_shared_prefix_changes_nothing(
    variant: str, most_short: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_MAX_SHORT", most_short)
    model = random_model(ALL_VARIANTS[variant]())
    model.save_pretrained(tmp_path)
    decoder = load_folder(tmp_path, torch.float32, TrainAttention(ReferenceAttention())).requires_grad_(False)
    lora = Lora(decoder, family_of(type(model).__name__).names, LoraShape(3, 6.0), seed=1)
    lora.values.add_(0.1 * torch.randn(lora.values.shape, generator=torch.Generator().manual_seed(2)))
    prefix, rests = _ids(1, 11), [_ids(2, 9), _ids(3, 4), _ids(4, 1)]
    targets = torch.tensor([token for rest in rests for token in rest])

    def gradients(
        sequences: list[list[int]], rows: list[int], prefixes: list[int | None] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lora.gradients.zero_()
        at = torch.tensor(rows)
        hidden = decoder(pack(sequences, decoder, at, prefixes), training_caches(decoder, prefixes), at)
        log_probs = token_log_probs(decoder, hidden, targets).log_probs
        (log_probs * torch.arange(1, len(targets) + 1)).sum().backward()
        return log_probs.detach(), lora.gradients.clone()

    # The first token of each rest is predicted from the last row of the prefix, here and there.
    shared = gradients([prefix, *rests], [10, *range(11, 19), 10, 20, 21, 22, 10], [None, 0, 0, 0])
    whole = gradients([prefix + rest for rest in rests], [*range(10, 19), *range(30, 34), 45], None)

    assert shares_prefixes(decoder)
    torch.testing.assert_close(shared[0], whole[0], rtol=1e-5, atol=1e-5)
    scale = max(1.0, float(whole[1].abs().max()))
    torch.testing.assert_close(shared[1], whole[1], rtol=1e-4, atol=1e-5 * scale)


def test_recurrent_layers_share_none(tmp_path: Path) -> None:
    random_model(ALL_VARIANTS["lfm2"]()).save_pretrained(tmp_path)
    assert not shares_prefixes(load_folder(tmp_path, torch.float32, TrainAttention(ReferenceAttention())))
