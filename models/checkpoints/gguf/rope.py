"""Rotary positions as GGUF files state them, in the terms of a config.json's `rope_parameters`."""

from typing import Any

from models.checkpoints.gguf.metadata import GGUFMetadata
from models.errors import UnsupportedModelError


def rope_parameters(file: GGUFMetadata, head_dim: int) -> dict[str, Any]:
    return {
        "rope_theta": file.number("rope.freq_base", 10000.0),
        "partial_rotary_factor": file.integer("rope.dimension_count", head_dim) / head_dim,
        **_scaling(file),
    }


def rope_parameters_by_layer(file: GGUFMetadata, head_dim: int, *, window_theta: float | None = None) -> dict[str, Any]:
    """The same for families in which layers with a window rotate otherwise: without scaling, and with a base of their
    own, window_theta where the file has none.
    """
    of_all = rope_parameters(file, head_dim)
    theta = file.number("rope.freq_base_swa", window_theta or of_all["rope_theta"])
    share = of_all["partial_rotary_factor"]
    of_window = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}
    return {"full_attention": of_all, "sliding_attention": of_window}


def _scaling(file: GGUFMetadata) -> dict[str, Any]:
    """Factors of frequencies that are tensors come first: older files do not name the scaling that they are of."""
    factor = file.scale(file.first("rope.scaling.factor", "rope.scale_linear"))
    kind = file.text("rope.scaling.type", "linear" if factor else "none")
    if (factors := file.values("rope_freqs.weight")) is not None and kind in ("none", "linear"):  # Llama 3.1 and later
        return {"rope_type": "factors", "factors": factors}
    long, short = (file.values(f"rope_factors_{name}.weight") for name in ("long", "short"))
    if long is not None and short is not None:
        return {
            "rope_type": "longrope",
            "long_factor": long,
            "short_factor": short,
            "original_max_position_embeddings": _original_length(file),
            "attention_factor": file.scale("rope.scaling.attn_factor"),
        }
    if kind == "none" or (kind == "linear" and factor is None):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return _yarn(file)
    raise UnsupportedModelError(
        f"{file.source}: rope.scaling.type {kind!r} is not supported; supported are linear, yarn, and longrope with "
        "tensors of its factors"
    )


def _yarn(file: GGUFMetadata) -> dict[str, Any]:
    weight_of_all = file.scale("rope.scaling.yarn_log_multiplier")
    return {
        "rope_type": "yarn",
        "factor": file.number("rope.scaling.factor"),
        "original_max_position_embeddings": _original_length(file),
        "attention_factor": file.scale("rope.scaling.yarn_attn_factor"),
        "beta_fast": file.scale("rope.scaling.yarn_beta_fast"),
        "beta_slow": file.scale("rope.scaling.yarn_beta_slow"),
        "mscale": None if weight_of_all is None else 1.0,
        "mscale_all_dim": weight_of_all,
    }


def _original_length(file: GGUFMetadata) -> int:
    """The context that the model was trained with before it was lengthened."""
    return file.integer("rope.scaling.original_context_length", file.integer("context_length"))
