"""Generation by a decoder in training, over a paged KV cache with the serving back end."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from models.decoder import Decoder
from models.kernels.cpu.arena import HugePageArena
from models.linear.adapters.bank import AdapterBank, make_bank
from models.training.lora import Lora
from models.training.paged_run import PagedRun


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    end_ids: Sequence[int],
    max_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    num_samples: int = 1,
    lora: Lora | None = None,
) -> list[list[int]]:
    """Generate after each prompt, up to and including one of `end_ids`, in one batch; return the generated tokens.

    temperature: 0 for greedy. Samples depend on the seed and on all prompts. num_samples: texts per prompt,
    consecutive in the result; the prompt is computed once. lora: the decoder's LoRA pairs; if given, they are computed
    by the kernels that serve adapters, which is faster and rounds differently.
    """
    with contextlib.nullcontext() if lora is None else serving_kernels(lora):
        run = PagedRun(decoder, prompts, num_samples, max_tokens, has_adapter=lora is not None and lora.is_adapted)
        generator = torch.Generator().manual_seed(seed)
        answers: list[list[int]] = [[] for _ in range(len(prompts) * num_samples)]
        unfinished = list(range(len(answers)))
        logits = run.begin()
        for _ in range(max_tokens):
            chosen = _choose(logits, temperature, generator)
            for index, token_id in zip(unfinished, chosen, strict=True):
                answers[index].append(token_id)
            unfinished = [index for index in unfinished if answers[index][-1] not in end_ids]
            if not unfinished or len(answers[unfinished[0]]) == max_tokens:
                break
            logits = run.step(unfinished, [[answers[index][-1]] for index in unfinished])
        return answers


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> list[int]:
    if temperature == 0.0:
        likeliest: list[int] = logits.argmax(dim=1).tolist()
        return likeliest
    # torch.multinomial takes twice as long for large vocabularies.
    sums = (logits / temperature).softmax(dim=1).cumsum(dim=1, dtype=torch.float64)
    draws = torch.rand(len(sums), 1, dtype=torch.float64, generator=generator) * sums[:, -1:]
    drawn: list[int] = torch.searchsorted(sums, draws, right=True)[:, 0].tolist()
    return drawn


@contextlib.contextmanager
def serving_kernels(lora: Lora) -> Iterator[None]:
    """Make the decoder compute as in serving within the context, with its LoRA pairs by the kernels for adapters.

    If `lora` is adapted, rows with adapter slot 0 use the current pairs. There are no gradients.
    """
    arena = HugePageArena()
    try:
        for layer, method in lora.methods:
            layer.method = method.frozen
            if method.adapter is not None and lora.is_adapted:
                bank: AdapterBank[Any] = make_bank(layer, 1)
                bank.set(0, bank.prepare(method.adapter.as_served(), arena))
                layer.adapters = bank
        yield
    finally:
        for layer, method in lora.methods:
            layer.method, layer.adapters = method, None
