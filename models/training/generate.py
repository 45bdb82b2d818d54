"""generate: answers of a decoder in training, over the paged cache of the back end that serves."""

from collections.abc import Sequence

import torch

from models.architecture.attention import AttentionSpec
from models.batch import ForwardBatch, GroupBatch, KVGroupBatch, StateGroupBatch
from models.decoder import Decoder
from models.recurrence.state import LayerCache, empty_state, state_parts

_BLOCK_SIZE = 16


@torch.no_grad()
def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    end_ids: Sequence[int],
    max_tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """The tokens after each prompt, up to and with one of `end_ids`; all prompts at once.

    temperature: 0 takes the likeliest token. Draws depend on the seed and on which prompts there are.
    """
    run = _Run(decoder, prompts, max_tokens)
    generator = torch.Generator().manual_seed(seed)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = [list(prompt) for prompt in prompts]
    open_ones = list(range(len(prompts)))
    for _ in range(max_tokens):
        logits = run.step([(index, rows[index]) for index in open_ones])
        chosen = _choose(logits, temperature, generator)
        for index, token_id in zip(open_ones, chosen, strict=True):
            answers[index].append(token_id)
            rows[index] = [token_id]
        open_ones = [index for index in open_ones if answers[index][-1] not in end_ids]
        if not open_ones:
            break
    return answers


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> list[int]:
    if temperature == 0.0:
        likeliest: list[int] = logits.argmax(dim=1).tolist()
        return likeliest
    drawn: list[int] = torch.multinomial((logits / temperature).softmax(dim=1), 1, generator=generator)[:, 0].tolist()
    return drawn


class _Run:
    """Caches with a place for each sequence: block tables that never change, and two states, written in turns."""

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
        self._decoder = decoder
        self._computed = [0] * len(prompts)
        longest = max(map(len, prompts)) + max_tokens
        self._blocks_each = -(-longest // _BLOCK_SIZE)
        self._steps = [0] * len(prompts)
        self._caches = [self._cache(mixer, len(prompts)) for mixer in decoder.mixers]

    def _cache(self, mixer: object, count: int) -> LayerCache:
        decoder = self._decoder
        if not isinstance(mixer, AttentionSpec):
            return empty_state(state_parts(mixer, decoder.dtype), 2 * count, torch.device("cpu"))  # type: ignore[arg-type]
        backend = next(layer.attn.backend for layer in decoder.layers if hasattr(layer.attn, "backend"))
        return torch.zeros(backend.kv_shape(mixer, count * self._blocks_each, _BLOCK_SIZE), dtype=decoder.dtype)

    def step(self, rows: Sequence[tuple[int, list[int]]]) -> torch.Tensor:
        """Computes the next rows of some sequences; logits after the last of each: [S, V]."""
        lengths = [len(ids) for _, ids in rows]
        starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        positions = [self._computed[index] + place for index, ids in rows for place in range(len(ids))]
        slots = [
            index * self._blocks_each * _BLOCK_SIZE + self._computed[index] + place
            for index, ids in rows
            for place in range(len(ids))
        ]
        for index, ids in rows:
            self._computed[index] += len(ids)
        contexts = [self._computed[index] for index, _ in rows]
        last_rows = starts[1:].long() - 1
        tables = [list(range(index * self._blocks_each, (index + 1) * self._blocks_each)) for index, _ in rows]
        attended = KVGroupBatch(torch.tensor(slots), torch.tensor(tables, dtype=torch.int32))
        batch = ForwardBatch(
            token_ids=torch.tensor([token_id for _, ids in rows for token_id in ids]),
            positions=torch.tensor(positions),
            cu_seqlens_q=starts,
            seq_lens=torch.tensor(contexts, dtype=torch.int32),
            groups=tuple(
                self._states(rows, starts, lengths) if group.is_state else attended
                for group in self._decoder.layer_groups
            ),
            logit_rows=last_rows,
            query_lens=tuple(lengths),
            context_lens=tuple(contexts),
            block_size=_BLOCK_SIZE,
        )
        hidden = self._decoder(batch, self._caches, last_rows)
        return self._decoder.logits(hidden)

    def _states(self, rows: Sequence[tuple[int, list[int]]], starts: torch.Tensor, lengths: list[int]) -> GroupBatch:
        sources, targets = [], []
        for (index, _), length in zip(rows, lengths, strict=True):
            turn = self._steps[index]
            sources.append(-1 if turn == 0 else 2 * index + (turn + 1) % 2)
            targets += [-1] * (length - 1) + [2 * index + turn % 2]
            self._steps[index] += 1
        return StateGroupBatch(
            sources=torch.tensor(sources, dtype=torch.int32),
            targets=torch.tensor(targets, dtype=torch.int32),
            cu_seqlens=starts,
            speculative_rows=None,
            query_lens=tuple(lengths),
            source_blocks=tuple(sources),
            target_blocks=tuple(targets),
        )
