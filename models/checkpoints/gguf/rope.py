"""`rope_parameters` of a config.json, from a GGUF file's metadata about rotary positions."""

from typing import Any

from models.checkpoints.gguf.metadata import GGUFMetadata
from models.errors import UnsupportedModelError

_NOT_ROTATED = 1e29


def rope_parameters(file: GGUFMetadata, head_dim: int) -> dict[str, Any]:
    return {
        "rope_theta": file.number("rope.freq_base", 10000.0),
        "partial_rotary_factor": file.integer("rope.dimension_count", head_dim) / head_dim,
        **_scaling(file, head_dim),
    }


def rope_parameters_by_layer(file: GGUFMetadata, head_dim: int, *, window_theta: float | None = None) -> dict[str, Any]:
    """Return rotary parameters by layer type, for families whose windowed layers have no scaling and their own theta.

    head_dim: of layers without a window. window_theta: theta of windowed layers if the file does not state it.
    """
    full = rope_parameters(file, head_dim)
    theta = file.number("rope.freq_base_swa", window_theta or full["rope_theta"])
    window_dim = file.integer("attention.key_length_swa", head_dim)
    # Heads of another size are rotated whole by default.
    usual = file.integer("rope.dimension_count", head_dim) if window_dim == head_dim else window_dim
    share = file.integer("rope.dimension_count_swa", usual) / window_dim
    windowed = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": share}
    return {"full_attention": full, "sliding_attention": windowed}


def _scaling(file: GGUFMetadata, head_dim: int) -> dict[str, Any]:
    """Return the rotary scaling as fields of `rope_parameters`.

    Tensors of frequency factors take precedence over the metadata, since older files do not name the scaling there.
    """
    factor = file.scale(file.first("rope.scaling.factor", "rope.scale_linear"))
    kind = file.text("rope.scaling.type", "linear" if factor else "none")
    if (factors := file.values("rope_freqs.weight")) is not None and kind in ("none", "linear"):  # Llama 3.1 and later
        return _factors(file, factors, head_dim)
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


def _factors(file: GGUFMetadata, factors: list[float], head_dim: int) -> dict[str, Any]:
    """Return factors of the wavelengths of rotary pairs. Gemma 4 marks pairs that do not rotate by a huge one."""
    if not any(factor > _NOT_ROTATED for factor in factors):
        return {"rope_type": "factors", "factors": factors}
    num_pairs = factors.count(1.0)
    if len(factors) != head_dim // 2 or not all(factor > _NOT_ROTATED for factor in factors[num_pairs:]):
        raise UnsupportedModelError(
            f"{file.source}: rope_freqs.weight must have {head_dim // 2} factors, each 1, and then each above "
            f"{_NOT_ROTATED:g}"
        )
    return {"rope_type": "proportional", "partial_rotary_factor": num_pairs / len(factors)}


def _yarn(file: GGUFMetadata) -> dict[str, Any]:
    mscale_all_dim = file.scale("rope.scaling.yarn_log_multiplier")
    return {
        "rope_type": "yarn",
        "factor": file.number("rope.scaling.factor"),
        "original_max_position_embeddings": _original_length(file),
        "attention_factor": file.scale("rope.scaling.yarn_attn_factor"),
        "beta_fast": file.scale("rope.scaling.yarn_beta_fast"),
        "beta_slow": file.scale("rope.scaling.yarn_beta_slow"),
        "mscale": None if mscale_all_dim is None else 1.0,
        "mscale_all_dim": mscale_all_dim,
    }


def _original_length(file: GGUFMetadata) -> int:
    """Return the context length of training, before it was extended."""
    return file.integer("rope.scaling.original_context_length", file.integer("context_length"))
