"""Attention and MLPs: rules for the names of their tensors, in families with other names than Llama's."""

from models.families.name_map import To


def attention_names(block: str, *, out: str = "o_proj") -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for queries, keys, values and the output in "model.layers.{i}.<block>"."""
    names = f"model.layers.{{i}}.{block}"
    return {
        **{f"{names}.{part}_proj.*": To("layers.{i}.attn.qkv", part) for part in ("q", "k", "v")},
        f"{names}.{out}.*": To("layers.{i}.attn.out"),
    }


def mlp_names(
    block: str, *, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj", place: str = "mlp"
) -> dict[str, To | tuple[To, ...] | None]:
    """Return rules for a gated MLP in "model.layers.{i}.<block>". place: "mlp", or "mlp.shared" for a shared expert."""
    names = f"model.layers.{{i}}.{block}"
    return {
        f"{names}.{gate}.*": To(f"layers.{{i}}.{place}.gate_up", "gate"),
        f"{names}.{up}.*": To(f"layers.{{i}}.{place}.gate_up", "up"),
        f"{names}.{down}.*": To(f"layers.{{i}}.{place}.down"),
    }
