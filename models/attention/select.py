"""Choice of the attention back end: the first in the device's preference list that supports every layer."""

import pkgutil
from collections.abc import Mapping, Sequence

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import kv_dtype_name
from models.attention.base import AttentionBackend
from models.errors import ModelError

# Device type -> back ends, best first; imported only when tried, since one may compile or load a library.
PREFERENCE: Mapping[str, Sequence[str]] = {
    "cpu": ("models.attention.cpu:CpuAttention", "models.attention.reference:ReferenceAttention"),
    "cuda": ("models.attention.triton:TritonAttention", "models.attention.reference:ReferenceAttention"),
}


def select_backend(
    specs: Sequence[AttentionSpec],
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    device: torch.device,
    preference: Mapping[str, Sequence[str]] = PREFERENCE,
) -> tuple[AttentionBackend, list[str]]:
    """Return the back end, and a line "name: reason" for each preferred back end that cannot be used.

    Raises ModelError if there is none for the device and dtypes.
    """
    refusals: list[str] = []
    for path in preference.get(device.type, ()):
        backend = load_backend(path)
        reasons = (backend.unsupported(spec, dtype, kv_dtype, device) for spec in dict.fromkeys(specs))
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is None:
            return backend, refusals
        refusals.append(f"{backend.name}: {reason}")
    cache, option = "", ""
    if kv_dtype != dtype:
        cache, option = f" and a KV cache in {kv_dtype_name(kv_dtype)}", "--kv-cache-dtype, "
    raise ModelError(
        f"no attention back end supports this model with dtype {dtype}{cache} on {device} "
        f"({'; '.join(refusals) or 'there is none for this device'}); choose another {option}--dtype or --device"
    )


def load_backend(path: str) -> AttentionBackend:
    """Make an instance of the class at "module:name"."""
    backend: AttentionBackend = pkgutil.resolve_name(path)()
    return backend
