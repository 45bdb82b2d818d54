"""Several samples of a prompt: computed once, and drawn from what a sequence of its own would be drawn from."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.families.registry import family_of
from models.kernels.cpu.library import required_library
from models.linear.storage import WeightOptions
from models.quant.tensor import Encoding
from models.training.attention import TrainAttention
from models.training.generate import _choose, generate, serving_kernels
from models.training.lora import Lora, LoraShape
from models.training.paged_run import PagedRun
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, load_folder, random_model
from tests.models.families.all_variants import ALL_VARIANTS

# Shorter than a block, a block, one token more, and several blocks.
LENGTHS = (7, 16, 17, 40)


def _decoder(folder: Path, variant: str = "llama-gqa") -> Decoder:
    random_model(ALL_VARIANTS[variant]()).save_pretrained(folder)
    return load_folder(folder, torch.float32, TrainAttention(ReferenceAttention()))


def _prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize("variant", ["llama-gqa", "gpt2", "gemma2", "qwen3-next", "lfm2", "deepseek-v2"])
def test_each_sample_goes_on_as_its_prompt_alone(variant: str, tmp_path: Path) -> None:
    decoder, prompts = _decoder(tmp_path, variant), _prompts()

    answers = generate(decoder, prompts, [], 20, num_samples=3)

    alone = [generate(decoder, [prompt], [], 20)[0] for prompt in prompts]
    assert answers == [answer for answer in alone for _ in range(3)]


def test_logits_of_samples_are_those_of_their_prompt_alone(tmp_path: Path) -> None:
    decoder, prompts = _decoder(tmp_path), _prompts()

    with torch.no_grad():
        found = PagedRun(decoder, prompts, 3, 4).begin()
        alone = torch.cat([PagedRun(decoder, [prompt], 1, 4).begin() for prompt in prompts])

    torch.testing.assert_close(found, alone.repeat_interleave(3, dim=0), rtol=1e-5, atol=1e-5)


def test_a_prompt_is_computed_once_for_all_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = _decoder(tmp_path)
    rows: list[int] = []
    forward = Decoder.forward

    def counted(self: Decoder, batch: Any, *others: Any) -> torch.Tensor:
        rows.append(len(batch.token_ids))
        return forward(self, batch, *others)

    monkeypatch.setattr(Decoder, "forward", counted)
    generate(decoder, [[5] * 40], [], 2, num_samples=8)

    assert rows == [32, 8 * 8, 8]  # two whole blocks, then the rest of the prompt for each sample, then one token


@pytest.mark.parametrize("variant", ["llama-gqa", "gpt2", "gemma2", "qwen3-next", "lfm2", "deepseek-v2", "mixtral"])
def test_an_adapter_answers_the_same_by_the_kernels_that_serve_adapters(variant: str, tmp_path: Path) -> None:
    model = random_model(ALL_VARIANTS[variant]())
    model.save_pretrained(tmp_path)
    decoder = load_folder(tmp_path, torch.float32, TrainAttention(ReferenceAttention())).requires_grad_(False)
    lora = Lora(decoder, family_of(type(model).__name__).names, LoraShape(4, 8.0), seed=1)
    base = generate(decoder, _prompts(), [], 12, lora=lora)
    lora.values.copy_(0.05 * torch.randn(lora.values.shape, generator=torch.Generator().manual_seed(2)))

    adapted = generate(decoder, _prompts(), [], 12, num_samples=2, lora=lora)

    assert adapted == generate(decoder, _prompts(), [], 12, num_samples=2) != [each for each in base for _ in range(2)]
    lora.is_adapted = False
    assert generate(decoder, _prompts(), [], 12, lora=lora) == base


@pytest.mark.parametrize("encoding", [Encoding.INT8, Encoding.INT4])
def test_packed_weights_and_an_adapter_have_the_logits_of_training(encoding: Encoding, tmp_path: Path) -> None:
    required_library()
    random_model(llama_config()).save_pretrained(tmp_path)
    weights = WeightOptions(quantize_to=encoding)
    decoder = load_folder(tmp_path, torch.bfloat16, TrainAttention(CpuAttention()), weights).requires_grad_(False)
    lora = Lora(decoder, family_of("LlamaForCausalLM").names, LoraShape(4, 8.0), seed=1)
    lora.values.copy_(0.1 * torch.randn(lora.values.shape, generator=torch.Generator().manual_seed(2)))

    with torch.no_grad():
        trained = PagedRun(decoder, _prompts(), 2, 4).begin()
        with serving_kernels(lora):
            found = PagedRun(decoder, _prompts(), 2, 4, has_adapter=True).begin()
            without = PagedRun(decoder, _prompts(), 2, 4).begin()

    assert float((found - trained).abs().mean()) < 0.03
    assert float((without - trained).abs().mean()) > 0.3


def test_draws_are_a_function_of_the_seed(tmp_path: Path) -> None:
    decoder, prompts = _decoder(tmp_path), _prompts()

    first, again, other = (
        generate(decoder, prompts, [2], 12, temperature=1.0, seed=seed, num_samples=4) for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other
    assert len({tuple(answer) for answer in first}) == len(first)


def test_samples_end_by_themselves(tmp_path: Path) -> None:
    decoder = _decoder(tmp_path)
    ends = list(range(0, VOCAB_SIZE, 8))

    answers = generate(decoder, _prompts(), ends, 30, temperature=1.0, num_samples=16)

    assert len({len(answer) for answer in answers}) > 3
    for answer in answers:
        assert not set(answer[:-1]) & set(ends)
        assert answer[-1] in ends or len(answer) == 30


def test_draws_have_the_distribution_of_the_logits() -> None:
    logits = torch.tensor([[0.0, 1.0, float("-inf"), 2.0, -1.0]]).expand(20_000, 5)

    for temperature in (1.0, 2.0):
        drawn = _choose(logits, temperature, torch.Generator().manual_seed(1))

        shares = torch.bincount(torch.tensor(drawn), minlength=5) / len(drawn)
        torch.testing.assert_close(shares, (logits[0] / temperature).softmax(dim=0), rtol=0, atol=0.02)
        assert shares[2] == 0
