"""generate: answers of a decoder in training, over the paged cache of the back end that serves."""

import contextlib
from collections.abc import Sequence

import torch

from models.decoder import Decoder
from models.training.lora import Lora
from models.training.paged_run import PagedRun
from models.training.served import served


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
    """The tokens after each prompt, up to and with one of `end_ids`; all prompts at once.

    temperature: 0 takes the likeliest token. Draws depend on the seed and on which prompts there are. num_samples: of
    each prompt, one after the other in the result; the prompt is computed once for all of them. lora: the decoder's, to
    compute it by the kernels that serve adapters, which is faster and rounds in other places.
    """
    with contextlib.nullcontext() if lora is None else served(lora):
        return _generate(decoder, prompts, end_ids, max_tokens, temperature, seed, num_samples, lora)


def _generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    end_ids: Sequence[int],
    max_tokens: int,
    temperature: float,
    seed: int,
    num_samples: int,
    lora: Lora | None,
) -> list[list[int]]:
    run = PagedRun(decoder, prompts, num_samples, max_tokens, has_adapter=lora is not None and lora.is_adapted)
    generator = torch.Generator().manual_seed(seed)
    answers: list[list[int]] = [[] for _ in range(len(prompts) * num_samples)]
    open_ones = list(range(len(answers)))
    logits = run.begin()
    for _ in range(max_tokens):
        chosen = _choose(logits, temperature, generator)
        for index, token_id in zip(open_ones, chosen, strict=True):
            answers[index].append(token_id)
        open_ones = [index for index in open_ones if answers[index][-1] not in end_ids]
        if not open_ones or len(answers[open_ones[0]]) == max_tokens:
            break
        logits = run.step(open_ones, [[answers[index][-1]] for index in open_ones])
    return answers


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> list[int]:
    if temperature == 0.0:
        likeliest: list[int] = logits.argmax(dim=1).tolist()
        return likeliest
    # torch.multinomial takes twice as long for large vocabularies.
    sums = (logits / temperature).softmax(dim=1).cumsum(dim=1, dtype=torch.float64)
    places = torch.rand(len(sums), 1, dtype=torch.float64, generator=generator) * sums[:, -1:]
    drawn: list[int] = torch.searchsorted(sums, places, right=True)[:, 0].tolist()
    return drawn
