"""Rules: a declarative map from a checkpoint's tensor names to the decoder's parameters."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from models.spec import LayerSpec

# Reorders what a format stores differently. The layer is None for tensors outside the layers.
Transform = Callable[[torch.Tensor, LayerSpec | None], torch.Tensor]


@dataclass(frozen=True, slots=True)
class To:
    """Where a tensor goes: a module path such as "layers.{i}.attn.qkv", and which shard of a fused one it fills."""

    module: str
    shard: str | None = None
    transform: Transform | None = None


IGNORE: To | None = None  # a tensor that carries no weights, such as a stored causal mask

# Pattern -> To. "{i}" is the layer's number; a final ".*" covers weight, bias, scales, zeros, so that quantised
# checkpoints need no map of their own. The first pattern that matches the whole name decides.
Rules = Mapping[str, To | None]


@dataclass(frozen=True, slots=True)
class Destination:
    """One tensor's place in the decoder."""

    module: str  # "layers.3.attn.qkv"
    parameter: str  # "weight"
    shard: str | None
    layer: int | None
    transform: Transform | None


class NameMap:
    """Compiled Rules."""

    def __init__(self, rules: Rules) -> None:
        self._rules = [(_compile(pattern), to) for pattern, to in rules.items()]

    def is_ignored(self, name: str) -> bool:
        match, to = self._match(name)
        return match is not None and to is IGNORE

    def destination(self, name: str) -> Destination | None:
        """Where the tensor goes, or None if no rule knows it or it is ignored."""
        match, to = self._match(name)
        if match is None or to is None:
            return None
        groups = match.groupdict()
        layer = groups.get("i")
        module = to.module if layer is None else to.module.replace("{i}", layer)
        return Destination(
            module, groups.get("part") or "weight", to.shard, None if layer is None else int(layer), to.transform
        )

    def _match(self, name: str) -> tuple[re.Match[str] | None, To | None]:
        for pattern, to in self._rules:
            if match := pattern.fullmatch(name):
                return match, to
        return None, None


def _compile(pattern: str) -> re.Pattern[str]:
    expression = re.escape(pattern).replace(r"\{i\}", r"(?P<i>\d{1,5})")
    return re.compile(re.sub(r"\\\.\\\*$", r"\\.(?P<part>\\w+)", expression))


def with_prefixes(prefixes: Iterable[str], rules: Rules) -> dict[str, To | None]:
    """The rules under each prefix, for checkpoints that were saved from different wrapping classes."""
    return {prefix + pattern: to for prefix in prefixes for pattern, to in rules.items()}


def transpose(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Conv1D keeps its weight as [in, out]; biases have nothing to turn."""
    return tensor.t() if tensor.dim() == 2 else tensor


def unpermute_q(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    assert layer is not None
    return _unpermute(tensor, layer.attention.num_heads)


def unpermute_k(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    assert layer is not None
    return _unpermute(tensor, layer.attention.num_kv_heads)


def _unpermute(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of each head from interleaved pairs (0, D/2, 1, D/2 + 1, ...), as GGUF has them for llama, back to halves.

    Works on weights [heads * D, in], biases [heads * D] and packed rows alike.
    """
    pairs = tensor.unflatten(0, (num_heads, -1, 2))  # [heads, D/2, 2, ...]
    return pairs.transpose(1, 2).flatten(0, 2)
