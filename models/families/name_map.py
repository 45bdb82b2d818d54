"""Rules: a declarative map from a checkpoint's tensor names to the decoder's parameters."""

import dataclasses
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

import torch

from models.architecture.decoder import DecoderSpec
from models.architecture.layer import LayerSpec

# Converts a tensor from the checkpoint's layout to the decoder's. The layer is None for tensors outside layers.
Transform = Callable[[torch.Tensor, LayerSpec | None], torch.Tensor]


@dataclass(frozen=True, slots=True)
class To:
    """A tensor's destination: a module such as "layers.{i}.attn.qkv", and the shard of a fused matrix that it fills.

    parameter: the parameter's name, if the tensor's name does not end with it. when_present: a module that exists
    only in the layers where the tensor has this name; in other layers, a tensor with another name fills `module`.
    otherwise: the module that the tensor fills in layers without `module`, and the shard there if it is another.
    """

    module: str
    shard: str | None = None
    transform: Transform | None = None
    parameter: str | None = None
    when_present: str | None = None
    otherwise: str | None = None
    otherwise_shard: str | None = None


_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # between dots

IGNORE: To | None = None  # for a tensor that is not a weight, such as a stored causal mask

# Destinations by pattern; several if a tensor is split (by their transforms). "{i}" is the layer's number, "{e}" an
# expert's; a final ".*" covers weight, bias, scales, zeros, so that quantized checkpoints need no separate map. The
# first pattern that matches the whole name decides. "{e}" in the module but not in the pattern means that the tensor is
# a stack of all experts' matrices along its first dimension; each expert gets its own. "{e}" may also be the shard.
# "{x}" is the number of a layer after the decoder's last, such as DeepSeek V3's for multi-token prediction; a final
# ".**" covers all names with that prefix. Both are for tensors to ignore, and such rules come first.
Rules = Mapping[str, To | tuple[To, ...] | None]


@dataclass(frozen=True, slots=True)
class Destination:
    """A tensor's parameter in the decoder, with the numbers of layer and expert."""

    module: str  # "layers.3.attn.qkv"; with "{e}" for a stack of experts
    parameter: str  # "weight"
    shard: str | None
    layer: int | None
    transform: Transform | None
    when_present: str | None = None

    def layer_of(self, spec: DecoderSpec | None) -> LayerSpec | None:
        """Return the layer that the parameter is in; None for parameters outside layers, and without a spec."""
        return None if self.layer is None or spec is None else spec.layers[self.layer]

    def is_of_shared_kv(self, spec: DecoderSpec) -> bool:
        """Whether the parameter makes keys or values in a layer that reads another layer's, and so has no such part."""
        if self.layer is None or self.layer >= len(spec.layers) or spec.layers[self.layer].kv_layer is None:
            return False
        attention, _, name = self.module.rpartition(".")
        is_kv = self.shard in ("k", "v") if name == "qkv" else name == "k_norm"
        return attention == f"layers.{self.layer}.attn" and is_kv

    def transformed(self, tensor: torch.Tensor, spec: DecoderSpec | None) -> torch.Tensor:
        """Return a tensor of the checkpoint in the decoder's layout."""
        return tensor if self.transform is None else self.transform(tensor, self.layer_of(spec))


class NameMap:
    """Compiled Rules: maps a tensor's name to its destinations."""

    def __init__(self, rules: Rules, num_layers: int | None = None, modules: Container[str] | None = None) -> None:
        """num_layers: number of the decoder's layers; without it, "{x}" matches no number. modules: names of the
        decoder's modules, by which `To.otherwise` applies; without them, it never does."""
        self._rules = [(_compile(_kind(pattern)), _compile(pattern), to) for pattern, to in rules.items()]
        self._num_layers = num_layers
        self._modules = modules
        # Rules that may match, by names whose numbers are 0: a checkpoint may have 200,000 tensors of 100 kinds.
        self._candidates: dict[str, list[tuple[re.Pattern[str], To | tuple[To, ...] | None]]] = {}

    def is_ignored(self, name: str) -> bool:
        match, to = self._match(name)
        return match is not None and to is IGNORE

    def destinations(self, name: str) -> tuple[Destination, ...]:
        """Return the tensor's destinations; empty if no rule matches, or the tensor is ignored."""
        match, to = self._match(name)
        if match is None or to is None:
            return ()
        return tuple(self._destination(match, one) for one in (to if isinstance(to, tuple) else (to,)))

    def _destination(self, match: re.Match[str], to: To) -> Destination:
        destination = _destination(match, to)
        if to.otherwise is None or self._modules is None or destination.module in self._modules:
            return destination
        return _destination(match, dataclasses.replace(to, module=to.otherwise, shard=to.otherwise_shard or to.shard))

    def _match(self, name: str) -> tuple[re.Match[str] | None, To | tuple[To, ...] | None]:
        kind = _kind(name)
        if kind not in self._candidates:
            self._candidates[kind] = [(pattern, to) for of_kind, pattern, to in self._rules if of_kind.fullmatch(kind)]
        for pattern, to in self._candidates[kind]:
            match = pattern.fullmatch(name)
            if match is not None and self._is_after_the_last(match.groupdict().get("x")):
                return match, to
        return None, None

    def _is_after_the_last(self, number: str | None) -> bool:
        """Whether `number`, matched by "{x}", is after the decoder's last layer; True for None (a rule without it)."""
        return number is None or (self._num_layers is not None and int(number) >= self._num_layers)


def _kind(name: str) -> str:
    """Return a name or pattern with 0 in place of the numbers between its dots."""
    return _NUMBER.sub("0", name)


def _compile(pattern: str) -> re.Pattern[str]:
    expression = re.sub(r"\\\{(i|e|x)\\\}", r"(?P<\1>\\d{1,5})", re.escape(pattern))
    if pattern.endswith(".**"):
        return re.compile(expression.removesuffix(r"\.\*\*") + r"\..+")
    return re.compile(re.sub(r"\\\.\\\*$", r"\\.(?P<part>\\w+)", expression))


def _destination(match: re.Match[str], to: To) -> Destination:
    groups = match.groupdict()
    module, shard, when_present, layer = to.module, to.shard, to.when_present, groups.get("i")
    for letter in ("i", "e"):
        if groups.get(letter) is not None:
            module = module.replace(f"{{{letter}}}", groups[letter])
            shard = shard and shard.replace(f"{{{letter}}}", groups[letter])
            when_present = when_present and when_present.replace(f"{{{letter}}}", groups[letter])
    parameter = to.parameter or groups.get("part") or "weight"
    return Destination(module, parameter, shard, None if layer is None else int(layer), to.transform, when_present)


def with_prefixes(prefixes: Iterable[str], rules: Rules) -> dict[str, To | tuple[To, ...] | None]:
    """Return the rules under each prefix, for checkpoints that were saved from different classes. The longest prefix,
    that of the class that generates text, comes last: adapters are saved with its names."""
    return {prefix + pattern: to for prefix in sorted(prefixes, key=len) for pattern, to in rules.items()}


def with_replaced(old: str, new: str, rules: Rules) -> dict[str, To | tuple[To, ...] | None]:
    """Return the rules with `new` in place of `old`, once in each pattern, for tensors that are saved elsewhere."""
    return {pattern.replace(old, new, 1): to for pattern, to in rules.items()}
