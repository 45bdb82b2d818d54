"""The native kernels: what each computes, where it can run, and why not where it cannot."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from models.kernels.cpu.library import kernel_library, unavailable_reason


@dataclass(frozen=True, slots=True)
class Kernel:
    """One native kernel. `dtypes`: of activations. `unavailable`: why it cannot run on this machine, or None."""

    name: str
    computes: str
    device: str  # device type
    dtypes: tuple[torch.dtype, ...]
    unavailable: Callable[[], str | None]


_FLOATS = (torch.bfloat16, torch.float32)

KERNELS = (
    Kernel("paged_attention", "attention over the paged KV cache", "cpu", _FLOATS, unavailable_reason),
    Kernel("rope_kv_write", "rotary embedding and the write to the KV cache", "cpu", _FLOATS, unavailable_reason),
    Kernel("quantized_linear", "linear layers over Q4_0 ... Q6_K weights", "cpu", _FLOATS, unavailable_reason),
    Kernel("scaled_linear", "linear layers over int4, int8, fp8, nf4, ... weights", "cpu", _FLOATS, unavailable_reason),
    Kernel("best_ids", "the largest logit of each row", "cpu", (torch.float32,), unavailable_reason),
    Kernel("draw_ids", "tokens drawn within top-k, top-p and min-p", "cpu", (torch.float32,), unavailable_reason),
    Kernel("bf16_linear", "linear layers over bf16 weights", "cpu", _FLOATS, unavailable_reason),
    Kernel("norm_heads", "norms of queries, keys and latents", "cpu", _FLOATS, unavailable_reason),
    Kernel("head_linear", "a bf16 matrix of its own for each head", "cpu", (torch.bfloat16,), unavailable_reason),
)


def refusal(name: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why kernel `name` cannot serve such a model on this machine, or None if it can."""
    kernel = next(kernel for kernel in KERNELS if kernel.name == name)
    if device.type != kernel.device:
        return f"{name} runs on {kernel.device}, not on {device}"
    if dtype not in kernel.dtypes:
        taken = " and ".join(str(each).removeprefix("torch.") for each in kernel.dtypes)
        return f"{name} takes {taken}, not {str(dtype).removeprefix('torch.')}"
    return kernel.unavailable()


def describe_kernels() -> str:
    """One line for the operator: the level in use, or why there is none."""
    library = kernel_library()
    if library is None:
        return f"Native kernels: none ({unavailable_reason()})"
    return f"Native kernels: {library.level} ({library.path})"
