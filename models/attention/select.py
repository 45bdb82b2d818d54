"""Choice of the attention back end: the first in the preference list that serves every layer."""

import importlib
from collections.abc import Sequence

import torch

from models.attention.base import AttentionBackend, AttentionSpec
from models.errors import ModelError

# Best first; imported only when looked at, since a back end may compile or load a library.
PREFERENCE = ("models.attention.reference:ReferenceAttention",)


def select_backend(
    specs: Sequence[AttentionSpec],
    dtype: torch.dtype,
    device: torch.device,
    preference: Sequence[str] = PREFERENCE,
) -> tuple[AttentionBackend, list[str]]:
    """The back end, and for each one passed over a line "name: reason". Raises ModelError if none is left."""
    refusals: list[str] = []
    for path in preference:
        module, _, name = path.partition(":")
        backend: AttentionBackend = getattr(importlib.import_module(module), name)()
        reasons = dict.fromkeys(backend.unsupported(spec, dtype, device) for spec in dict.fromkeys(specs))
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is None:
            return backend, refusals
        refusals.append(f"{backend.name}: {reason}")
    raise ModelError(
        f"no attention back end serves this model with dtype {dtype} on {device} ({'; '.join(refusals)}); "
        "choose another --dtype or --device"
    )
