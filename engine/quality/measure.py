"""What quantization costs: the predictions of a model held against those of the same weights unquantized.

The reference is computed first and cut down to what the comparison needs, layer by layer, so that never two models are
in memory. Of its distribution at a position are kept the TOP likeliest tokens and the mass of all others together: the
KL divergence between two distributions that are merged so is at most that between the whole ones; for SmolLM2 in int4
it was 0.112 where the whole was 0.115.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from engine.protocol import Quality
from engine.quality.passages import BLOCK_SIZE, Passages, steps_of
from models.kv_cache import allocate_kv
from models.loaded_model import LoadedModel
from models.loading.layer_stream import LayerStream
from models.progress import ProgressReport

TOP = 1024
_LOGIT_ROWS = 128  # computed at once: at a vocabulary of 152k each is 0.6 MB
_LEAST = 1e-12  # of a mass that rounding may have made 0


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a model expects at each of N positions.

    token_ids, log_probs: [N, TOP] the likeliest tokens, best first. target: [N] log probability of the text's token.
    """

    token_ids: torch.Tensor
    log_probs: torch.Tensor
    target: torch.Tensor

    @property
    def perplexity(self) -> float:
        return math.exp(-float(self.target.mean()))


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What models are compared with; `name` says which weights these are."""

    name: str
    passages: Passages
    predictions: Predictions


@torch.inference_mode()
def predict(stream: LayerStream, passages: Passages, progress: ProgressReport) -> Predictions:
    """Of the weights as `stream` holds them. Its layers are used up."""
    decoder = stream.decoder
    device = stream.device
    stream.load_non_layer_weights()
    groups = decoder.layer_groups
    texts = [stream.begin(steps_of(chunk[:-1], groups, device)) for chunk in passages.chunks]
    for index, _ in stream.layers("reference", progress):
        for text in texts:
            stream.compute(index, text)
    targets = passages.targets.to(device)
    kept: list[tuple[torch.Tensor, ...]] = []
    for rows, first in _in_parts([text.hidden() for text in texts]):
        log_probs = decoder.logits(rows).log_softmax(-1)
        best = log_probs.topk(min(TOP, log_probs.shape[1]), dim=-1)
        target = log_probs.gather(1, targets[first : first + len(rows), None]).squeeze(1)
        kept.append((best.indices.to(torch.int32).cpu(), best.values.cpu(), target.cpu()))
    token_ids, values, target = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return Predictions(token_ids, values, target)


@torch.inference_mode()
def compare(model: LoadedModel, reference: Reference, progress: ProgressReport) -> Quality:
    """The model's predictions on the reference's passages against the reference's own."""
    passages, predictions = reference.passages, reference.predictions
    targets = passages.targets.to(model.device)
    divergence = agreements = log_likelihood = 0.0
    first = 0
    for rows in _computed(model, passages, progress):
        for part in rows.split(_LOGIT_ROWS):
            end = first + len(part)
            log_probs = model.decoder.logits(part).log_softmax(-1)
            expected = predictions.log_probs[first:end].to(model.device)
            token_ids = predictions.token_ids[first:end].to(model.device, torch.int64)
            divergence += float(divergence_of(expected, log_probs.gather(1, token_ids)).sum())
            agreements += int((log_probs.argmax(-1) == token_ids[:, 0]).sum())
            log_likelihood += float(log_probs.gather(1, targets[first:end, None]).sum())
            first = end
    return Quality(
        kl_divergence=divergence / first,
        top1_agreement=agreements / first,
        perplexity=math.exp(-log_likelihood / first),
        reference_perplexity=predictions.perplexity,
        num_tokens=first,
        reference=reference.name,
    )


def _computed(model: LoadedModel, passages: Passages, progress: ProgressReport) -> Iterator[torch.Tensor]:
    """Hidden rows of each chunk, in order."""
    groups = model.layer_groups
    longest = max(len(chunk) for chunk in passages.chunks)
    kv = allocate_kv(model, len(groups) * -(-longest // BLOCK_SIZE), BLOCK_SIZE, num_states=1)
    for index, chunk in enumerate(passages.chunks):
        progress("measure quality", index, len(passages.chunks), "passages")
        yield torch.cat([model.decoder(batch, kv) for batch in steps_of(chunk[:-1], groups, model.device)])
    progress("measure quality", len(passages.chunks), len(passages.chunks), "passages")


def _in_parts(texts: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, int]]:
    """Rows, at most _LOGIT_ROWS at once, and the number of the first."""
    first = 0
    for text in texts:
        for part in text.split(_LOGIT_ROWS):
            yield part, first
            first += len(part)


def divergence_of(expected: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """KL(expected, found) [n] in nats from log probabilities [n, TOP] of the same tokens; the others count as one."""
    p = expected.exp()
    kept = (p * (expected - found)).sum(-1)
    rest_p = (1.0 - p.double().sum(-1)).clamp_min(_LEAST)
    rest_q = (1.0 - found.double().exp().sum(-1)).clamp_min(_LEAST)
    return kept + rest_p * (rest_p / rest_q).log()
