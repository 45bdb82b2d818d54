"""Gradients of LoRA pairs, for comparisons with PEFT's."""

from models.training.lora import Lora
from models.training.trainable_adapter import Pair


def gradient_pairs(lora: Lora) -> list[Pair]:
    """Return the gradients of every pair's matrices, in the form of `Lora.matrices`."""
    values = lora.values.clone()
    lora.values.copy_(lora.gradients)
    pairs = list(lora.matrices())
    lora.values.copy_(values)
    return pairs
