"""Sampler: one token for each logits row, by a fixed pipeline whose steps are skipped when no row uses them.

logit bias -> penalties -> minimum length -> temperature -> top-k, top-p, min-p -> draw. Log probabilities come from
the raw logits.
"""

from dataclasses import dataclass

import torch

from engine.protocol import SamplingParams, TokenLogprobs
from engine.sampling.draw import draw, uniform
from engine.sampling.logprobs import token_logprobs
from engine.sampling.penalties import TokenCounts, apply_logit_bias, apply_penalties
from engine.sampling.truncation import TruncationParams, truncate
from engine.sequence import Sequence

# Below this a distribution is its maximum to within fp32, and dividing by it would overflow.
_GREEDY_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class SampledRow:
    """One row's token, or the reason why there is none."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None


class Sampler:
    """Chooses tokens; holds the token counts of sequences with penalties until they are released."""

    def __init__(self, eos_token_ids: list[int]) -> None:
        self._eos_token_ids = eos_token_ids
        self._counts: dict[str, TokenCounts] = {}

    def release(self, sequence: Sequence) -> None:
        self._counts.pop(sequence.id, None)

    def sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[SampledRow]:
        """The next token of each sequence. logits: [L, V] fp32, one row a sequence; edited in place.

        A row whose logits are not finite gets an error and takes nothing from the others.
        """
        best_values, best_ids = logits.max(dim=-1)  # max propagates NaN, so it also tells which rows are sound
        sound = torch.isfinite(best_values)
        if not bool(sound.all()):
            return self._sample_sound(logits, sequences, sound.tolist())
        logprob_rows = [row for row, s in enumerate(sequences) if s.request.sampling.logprobs is not None]
        raw = logits[logprob_rows] if logprob_rows else None  # a copy: the steps below edit in place
        edited = self._edit(logits, sequences)
        if edited:
            best_ids[edited] = logits[edited].argmax(dim=-1)
        token_ids = best_ids.tolist()
        drawn = [row for row, s in enumerate(sequences) if s.request.sampling.temperature >= _GREEDY_TEMPERATURE]
        if drawn:
            drawn_ids = _draw_rows(logits if len(drawn) == len(sequences) else logits[drawn], sequences, drawn)
            for row, token_id in zip(drawn, drawn_ids, strict=True):
                token_ids[row] = token_id
        logprobs: dict[int, TokenLogprobs] = {}
        if raw is not None:
            num_top = [sequences[row].request.sampling.logprobs or 0 for row in logprob_rows]
            chosen = [token_ids[row] for row in logprob_rows]
            logprobs = dict(zip(logprob_rows, token_logprobs(raw, chosen, num_top), strict=True))
        return [SampledRow(token_id, logprobs.get(row)) for row, token_id in enumerate(token_ids)]

    def _sample_sound(self, logits: torch.Tensor, sequences: list[Sequence], sound: list[bool]) -> list[SampledRow]:
        """As `sample`, for a batch in which some rows cannot be sampled from."""
        rows = [row for row, is_sound in enumerate(sound) if is_sound]
        sampled = iter(self.sample(logits[rows], [sequences[row] for row in rows]) if rows else [])
        broken = SampledRow(-1, error="the model's output was not finite (NaN or infinity) for this request")
        return [next(sampled) if is_sound else broken for is_sound in sound]

    def _edit(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
        """Apply the steps that edit single logits; returns the rows they changed."""
        edited = []
        for row, sequence in enumerate(sequences):
            sampling = sequence.request.sampling
            has_penalties = _has_penalties(sampling)
            banned = self._banned_ids(sequence)
            if not (sampling.logit_bias or has_penalties or banned):
                continue
            edited.append(row)
            if sampling.logit_bias:
                apply_logit_bias(logits[row], sampling.logit_bias)
            if has_penalties:
                counts = self._counts.setdefault(sequence.id, TokenCounts())
                counts.update(sequence)
                apply_penalties(logits[row], sequence, counts)
            if banned:
                logits[row, banned] = -torch.inf
        return edited

    def _banned_ids(self, sequence: Sequence) -> list[int]:
        """Ids that would end the text before min_tokens."""
        sampling = sequence.request.sampling
        if sequence.num_output >= sampling.min_tokens:
            return []
        return [*sampling.stop_token_ids, *([] if sampling.ignore_eos else self._eos_token_ids)]


def _has_penalties(sampling: SamplingParams) -> bool:
    return sampling.repetition_penalty != 1.0 or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0


def _draw_rows(logits: torch.Tensor, sequences: list[Sequence], rows: list[int]) -> list[int]:
    """Token ids drawn at each row's temperature. logits: [len(rows), V]; rows index `sequences`."""
    device = logits.device
    params = [sequences[row].request.sampling for row in rows]
    temperature = torch.tensor([p.temperature for p in params], dtype=torch.float32, device=device)
    scaled = logits / temperature.unsqueeze(-1)
    uniforms = torch.tensor(
        [uniform(sequences[row].seed, len(sequences[row].tokens)) for row in rows], dtype=torch.float64, device=device
    )
    result = [0] * len(rows)
    whole = [i for i, p in enumerate(params) if not _is_truncated(p)]
    cut = [i for i, p in enumerate(params) if _is_truncated(p)]
    if whole:
        weights = (scaled[whole] - scaled[whole].amax(dim=-1, keepdim=True)).exp()
        for i, token_id in zip(whole, draw(weights, uniforms[whole]).tolist(), strict=True):
            result[i] = token_id
    if cut:
        limits = TruncationParams(
            top_k=torch.tensor([params[i].top_k for i in cut], device=device),
            top_p=torch.tensor([params[i].top_p for i in cut], dtype=torch.float64, device=device),
            min_p=torch.tensor([params[i].min_p for i in cut], dtype=torch.float64, device=device),
        )
        ids, weights = truncate(scaled[cut], limits)
        chosen = ids.gather(-1, draw(weights, uniforms[cut]).unsqueeze(-1)).squeeze(-1)
        for i, token_id in zip(cut, chosen.tolist(), strict=True):
            result[i] = token_id
    return result


def _is_truncated(sampling: SamplingParams) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0
