"""ModelsConfig: options of several models, or of models loaded on demand; a part of ServerConfig."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.config import EngineConfig, option

_models = partial(option, group="Models")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of a server with several, and its own options."""

    names: tuple[str, ...]  # in requests; the first is canonical
    engine: EngineConfig
    overrides: Mapping[str, Any] = field(default_factory=dict)  # fields of ServerConfig that differ for this model
    idle_unload: float | None = None
    is_pinned: bool = False  # loaded at the start, and only unloaded by operators
    kv_share: float = 1.0  # share of the memory for KV caches, relative to the other models
    own_options: frozenset[str] = frozenset()  # engine options that this entry sets itself

    @property
    def name(self) -> str:
        return self.names[0]


@dataclass(frozen=True, slots=True)
class ModelsConfig:
    entries: tuple[ModelEntry, ...] = ()  # empty: only the model of EngineConfig
    load_on_demand: bool = _models(
        False,
        "Load a model when a request asks for it, and unload the least recently used one when memory is short; the "
        "first and pinned ones are loaded at startup.",
    )
    idle_unload: float | None = _models(
        None,
        "Time without a request, such as 90s, 10m or 2h, after which a model is unloaded until its next request "
        "(default: never).",
        type="duration",
        minimum=1,
    )
    load_timeout: float = _models(
        300.0,
        "Time that a request may wait for its model to load, including for its turn; then it gets 503.",
        type="duration",
        minimum=1,
    )
    models_memory: int | None = _models(
        None,
        "Memory for the weights, KV caches and processes of several models together (default: 80 % of what is free at "
        "startup).",
        type="bytes",
        minimum=1,
    )

    @property
    def loads_on_demand(self) -> bool:
        """Whether models are loaded and unloaded on demand, by --load-on-demand or an idle limit."""
        limits = (self.idle_unload, *(entry.idle_unload for entry in self.entries))
        return self.load_on_demand or any(limit is not None for limit in limits)
