"""check_memory: checks that the machine has the memory that training needs on top of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.errors import NotEnoughMemory
from engine.finetuning.loss.objective import MAX_TOKENS
from engine.wording import gib
from models.decoder import Decoder
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.system.memory import obtainable_memory_bytes
from models.training.lora import Lora

_PARAMETER_BYTES = 16  # of a trained number in fp32: itself, its gradient, and two moments of AdamW
_BEST_BYTES = 4  # and its value after the epoch that validated best
_ACTIVATIONS = 2  # copies kept for gradients of each input and output of a linear layer, as measured
_WORK_BYTES = 256 << 20  # for parts of logits, and for weights while they are dequantized


@dataclass(frozen=True, slots=True)
class GenerationMemory:
    """Memory needed to sample a batch of answers. num_bytes: KV cache of all its sequences."""

    num_sequences: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes that training needs besides the weights. state: of the trained numbers, their gradients and the optimizer,
    `value_bytes` each. activations: kept for one backward pass. work: for parts of logits and dequantized weights."""

    state: int
    value_bytes: int
    activations: int
    work: int = _WORK_BYTES

    @property
    def total(self) -> int:
        return self.state + self.activations + self.work


def training_memory(decoder: Decoder, num_values: int, num_tokens: int, *, keeps_best: bool) -> TrainingMemory:
    """Return the memory to train `num_values` numbers. decoder: also one without weights. num_tokens: tokens in one
    backward pass. keeps_best: a copy of the best adapter is kept, as with a validation file."""
    per_value = _PARAMETER_BYTES + (_BEST_BYTES if keeps_best else 0)
    return TrainingMemory(num_values * per_value, per_value, num_tokens * _token_bytes(decoder))


def check_memory(
    decoder: Decoder, lora: Lora, num_tokens: int, *, keeps_best: bool, generation: GenerationMemory | None = None
) -> None:
    """Raise NotEnoughMemory, with the arithmetic, if training needs more memory than is free.

    decoder: with weights loaded, so that they no longer count. num_tokens: tokens in one backward pass. keeps_best: a
    copy of the best adapter is kept, as with a validation file. generation: memory for sampling answers, which is free
    again before the gradients are computed.
    """
    num_trained = lora.values.numel()
    memory = training_memory(decoder, num_trained, num_tokens, keeps_best=keeps_best)
    caches = 0 if generation is None else generation.num_bytes
    needed = memory.total + max(0, caches - memory.activations)  # one after the other
    obtainable = obtainable_memory_bytes(torch.device("cpu"))
    if needed > obtainable:
        answers = "" if generation is None else f"or {gib(caches)} to generate {generation.num_sequences} answers, "
        remedy = "--max-length" if generation is None else "--max-completion-tokens"
        raise NotEnoughMemory(
            f"training needs {gib(needed)} besides the {gib(decoder.weight_bytes())} of weights, and "
            f"{gib(obtainable)} is free: {gib(memory.state)} for {num_trained:,} trained numbers of "
            f"{memory.value_bytes} bytes, {gib(memory.activations)} for {num_tokens:,} tokens at a time, "
            f"{answers}{gib(memory.work)} to work with; lower {remedy} or --lora-rank, or choose a smaller model"
        )


def most_tokens(sizes: Sequence[int], batch_size: int) -> int:
    """Return the most tokens in one backward pass: MAX_TOKENS, less if a step has fewer, more if a single item does.

    sizes: token counts of all items. batch_size: items per step.
    """
    largest = sorted(sizes, reverse=True)[:batch_size]
    return max(largest[0], min(MAX_TOKENS, sum(largest)))


def active_share(decoder: Decoder) -> float:
    """Return the share of the experts that a token is routed to; 1 without experts."""
    moe = next((layer.experts for layer in decoder.spec.layers if layer.experts is not None), None)
    return 1.0 if moe is None else moe.router.experts_per_token / moe.num_experts


def _token_bytes(decoder: Decoder) -> int:
    """Return the activation bytes kept for the backward pass, per token. Only the experts that a token is routed to
    count, and the output layer does not, since its logits are computed in parts."""
    share = active_share(decoder)
    numbers = 0.0
    for name, layer in decoder.named_modules():
        if isinstance(layer, Linear) and layer is not decoder.head and not isinstance(layer, Embedding):
            numbers += (layer.in_features + layer.out_features) * (share if ".experts." in name else 1.0)
    return int(_ACTIVATIONS * decoder.compute_dtype.itemsize * numbers)
