"""Comparison of a quantized model's predictions with the unquantized model's.

The reference model runs first, layer by layer, and its predictions are reduced to what the comparison needs, so that
two models are never in memory. A reference distribution is stored as the NUM_TOP likeliest tokens and the total mass of
all other tokens. The KL divergence of distributions merged like this is at most the full one; for SmolLM2 in int4 it
was 0.112 instead of 0.115.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from engine.protocol import Quality
from engine.quality.eval_chunks import EvalChunks, chunk_targets
from models.forward.chunk_batches import BLOCK_SIZE, step_batches
from models.forward.key_centers import center_keys
from models.forward.layer_stream import LayerStream
from models.loaded_model import LoadedModel
from models.progress import ProgressReport

NUM_TOP = 1024
_LOGIT_ROWS = 128  # computed together: at a vocabulary of 152k each is 0.6 MB
_MIN_MASS = 1e-12  # of a probability that rounding may have made 0


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """A model's predictions at N positions.

    token_ids, log_probs: [N, NUM_TOP], the likeliest tokens, best first. target_log_probs: [N], log probabilities of
    the text's own tokens.
    """

    token_ids: torch.Tensor
    log_probs: torch.Tensor
    target_log_probs: torch.Tensor

    @property
    def perplexity(self) -> float:
        return math.exp(-float(self.target_log_probs.mean()))


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceModel:
    """The unquantized model to compare with: the evaluation text and its predictions. name: describes its weights."""

    name: str
    eval_chunks: EvalChunks
    predictions: Predictions


@torch.inference_mode()
def predict(stream: LayerStream, eval_chunks: EvalChunks, progress: ProgressReport) -> Predictions:
    """Run the model of `stream` on the chunks, layer by layer. Consumes the stream's layers."""
    decoder = stream.decoder
    device = stream.device
    stream.load_non_layer_weights()
    groups = decoder.cache_layout.groups
    forwards = [stream.begin(step_batches(chunk[:-1], groups, device)) for chunk in eval_chunks]
    for index, _ in stream.layers("reference", progress):
        for forward in forwards:
            stream.compute(index, forward)
    targets = chunk_targets(eval_chunks).to(device)
    parts: list[tuple[torch.Tensor, ...]] = []
    for rows, first in _split_rows(stream.hidden(forward) for forward in forwards):
        log_probs = decoder.logits(rows).log_softmax(-1)
        best = log_probs.topk(min(NUM_TOP, log_probs.shape[1]), dim=-1)
        target = log_probs.gather(1, targets[first : first + len(rows), None]).squeeze(1)
        parts.append((best.indices.to(torch.int32).cpu(), best.values.cpu(), target.cpu()))
    return Predictions(*(torch.cat(each) for each in zip(*parts, strict=True)))


@torch.inference_mode()
def compare_predictions(model: LoadedModel, reference: ReferenceModel, progress: ProgressReport) -> Quality:
    """Run the model on the reference's chunks, and compare its predictions with the reference's."""
    eval_chunks, predictions = reference.eval_chunks, reference.predictions
    targets = chunk_targets(eval_chunks).to(model.device)
    divergence = agreements = log_likelihood = 0.0
    for rows, first in _split_rows(_hidden_rows(model, eval_chunks, progress)):
        end = first + len(rows)
        log_probs = model.decoder.logits(rows).log_softmax(-1)
        expected = predictions.log_probs[first:end].to(model.device)
        token_ids = predictions.token_ids[first:end].to(model.device, torch.int64)
        divergence += float(kl_divergence_of(expected, log_probs.gather(1, token_ids)).sum())
        agreements += int((log_probs.argmax(-1) == token_ids[:, 0]).sum())
        log_likelihood += float(log_probs.gather(1, targets[first:end, None]).sum())
    return Quality(
        kl_divergence=divergence / len(targets),
        top1_agreement=agreements / len(targets),
        perplexity=math.exp(-log_likelihood / len(targets)),
        reference_perplexity=predictions.perplexity,
        num_tokens=len(targets),
        reference=reference.name,
    )


def _hidden_rows(model: LoadedModel, eval_chunks: EvalChunks, progress: ProgressReport) -> Iterator[torch.Tensor]:
    groups = model.cache_layout.groups
    longest = max(map(len, eval_chunks))
    center_keys(model.decoder, model.compute, longest)
    num_blocks = -(-longest // BLOCK_SIZE)
    kv = model.cache_layout.allocate_unshared(num_blocks, BLOCK_SIZE, model.device, num_states=1)
    for index, chunk in enumerate(eval_chunks):
        progress("measure quality", index, len(eval_chunks), "chunks")
        yield torch.cat([model.decoder(batch, kv) for batch in step_batches(chunk[:-1], groups, model.device)])
    progress("measure quality", len(eval_chunks), len(eval_chunks), "chunks")


def _split_rows(hidden: Iterable[torch.Tensor]) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield the rows in parts of at most _LOGIT_ROWS, each with the overall index of its first row."""
    first = 0
    for rows in hidden:
        for part in rows.split(_LOGIT_ROWS):
            yield part, first
            first += len(part)


def kl_divergence_of(expected: torch.Tensor, actual: torch.Tensor) -> torch.Tensor:
    """Return KL(expected, actual), [n] in nats, from log probabilities [n, NUM_TOP] of the same tokens; all other
    tokens are merged into one."""
    p = expected.exp()
    top = (p * (expected - actual)).sum(-1)
    rest_p = (1.0 - p.double().sum(-1)).clamp_min(_MIN_MASS)
    rest_q = (1.0 - actual.double().exp().sum(-1)).clamp_min(_MIN_MASS)
    return top + rest_p * (rest_p / rest_q).log()
