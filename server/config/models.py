"""ModelsConfig: options of several models, or of models loaded on demand; a part of ServerConfig."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from engine.config import EngineConfig, option

_models = partial(option, group="Models")
_GGUF = re.compile(r"(-\d{5}-of-\d{5})?\.gguf", re.IGNORECASE)  # also of the first part of a split file
_HUB_SNAPSHOT = re.compile(r".*/models--[^/]+--(?P<repo>[^/]+)/snapshots/[^/]+/?")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of a server with several, and its own options."""

    names: tuple[str, ...]  # names in requests; the first is canonical
    engine: EngineConfig
    overrides: Mapping[str, Any] = field(default_factory=dict)  # fields of ServerConfig that differ for this model
    idle_unload: float | None = None
    is_pinned: bool = False  # loaded at the start, and only unloaded by operators
    kv_share: float = 1.0  # share of the memory for KV caches, relative to the other models
    own_options: frozenset[str] = frozenset()  # engine options that this entry sets itself
    alias: str | None = None  # another name in requests, which is not listed: MODEL as typed

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

    pull_allow: tuple[str, ...] = _models(
        (),
        "Model that operators may fetch into the cache while the server runs, as a shell pattern: OWNER/*, "
        "pypi:NAME, demo:*; repeatable (default: none).",
        metavar="PATTERN",
    )

    @property
    def loads_on_demand(self) -> bool:
        """Whether models are loaded and unloaded on demand, by --load-on-demand or an idle limit."""
        limits = (self.idle_unload, *(entry.idle_unload for entry in self.entries))
        return self.load_on_demand or any(limit is not None for limit in limits)


def default_entry(name: str, engine: EngineConfig) -> ModelEntry:
    """Return the entry of a model with a name of `default_names`. Requests may also call the model as it was typed."""
    return ModelEntry((name,), engine, alias=None if name == engine.model else engine.model)


def default_names(models: Sequence[str]) -> list[str]:
    """Return the names by which clients request the models given as `models` on the command line.

    The name is the last part of the path or of the repository's name, without .gguf. Models with the same last part
    keep the name that was typed.
    """
    names = [_last_part(model) for model in models]
    counts = Counter(names)
    return [name if counts[name] == 1 else model for name, model in zip(names, models, strict=True)]


def _last_part(model: str) -> str:
    if model.startswith("pypi:"):
        return model
    if snapshot := _HUB_SNAPSHOT.fullmatch(model):
        return snapshot["repo"]
    if model.rstrip("/").endswith(".") or model.startswith("~"):  # ., .. and the like have no name of their own
        model = str(Path(model).expanduser().resolve())
    repository, _, selector = model.partition(":")
    if _GGUF.search(selector):  # OWNER/REPO:file.gguf
        model = selector
    elif selector and "/" not in selector:  # OWNER/REPO:Q4_K_M
        return f"{_last_part(repository)}:{selector}"
    return _GGUF.sub("", model.rstrip("/").rpartition("/")[2]) or model
