"""check_memory: whether the machine has what training takes beside the weights, told before the first step."""

import torch

from engine.errors import StartupError
from models.system.memory import obtainable_memory_bytes

_PARAMETER_BYTES = 16  # of a trained number in fp32: itself, its gradient, and two moments of AdamW
_BEST_BYTES = 4  # and its value after the epoch that validated best


class NotEnoughMemory(StartupError):
    """Training would be ended by the system. The message has the arithmetic."""


def check_memory(weight_bytes: int, num_trained: int, num_tokens: int, token_bytes: int, *, keeps_best: bool) -> None:
    """weight_bytes: which are there already. num_trained: numbers of the adapter. num_tokens: of the largest part of a
    step, and token_bytes what each takes until its gradient is known. Raises NotEnoughMemory."""
    per_number = _PARAMETER_BYTES + (_BEST_BYTES if keeps_best else 0)
    state, activations = num_trained * per_number, num_tokens * token_bytes
    obtainable = obtainable_memory_bytes(torch.device("cpu"))
    if state + activations <= obtainable:
        return
    raise NotEnoughMemory(
        f"training needs {_gib(state + activations)} beside the weights' {_gib(weight_bytes)}: {_gib(state)} for the "
        f"state of {num_trained:,} trained numbers, {per_number} bytes each, and {_gib(activations)} for "
        f"{num_tokens:,} tokens at a time; {_gib(obtainable)} can be had. Lower --lora-rank or --max-length, or choose "
        "a smaller model"
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
