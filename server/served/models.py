"""ServedModels: all models of one server, by name, with their adapters."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from engine.errors import HeadraceError, InvalidRequest, OptionError
from engine.protocol import EngineInfo
from server.config.lora import LoraConfig
from server.errors import ModelNotFound
from server.keys.caller import current_caller
from server.live.feed import ModelSummary
from server.live.request_stories import RequestStory
from server.live.request_table import request_not_known
from server.metrics.values import Metrics
from server.schemas.base import quote
from server.served.adapter import ServedAdapter
from server.served.adapters import ServedAdapters
from server.served.arrivals import Arrivals
from server.served.loadable_model import ModelState
from server.served.model import ServedModel


class ServedModels:
    """The served models, at least one, and their adapters. A request without a model name uses the first model."""

    def __init__(self, models: Sequence[ServedModel], aliases: Mapping[str, str] = MappingProxyType({})) -> None:
        """aliases: names that requests may use and that are not listed, with the model's name."""
        assert models, "a server has at least one model"
        self.aliases = aliases
        self.have_started = False  # whether the models that are loaded at the start have been; used with several models
        self.adapters = ServedAdapters()
        self.arrivals = Arrivals()
        self._models = tuple(models)
        for model in models:
            model.arrivals = self.arrivals
        self._by_name = {name: model for model in models for name in model.names}
        assert len(self._by_name) == sum(len(model.names) for model in models), "two models have the same name"

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    @property
    def default(self) -> ServedModel:
        return self._models[0]

    @property
    def only_name(self) -> str | None:
        """Name of the only model; None if there are several."""
        return self.default.name if len(self._models) == 1 else None

    @property
    def visible_names(self) -> tuple[str, ...]:
        """Names that the current request's caller may use, adapters last."""
        caller = current_caller()
        adapters = (each.name for each in self.adapters if each.is_for(caller))
        return (*(name for model in self._models for name in model.visible_names), *adapters)

    def gpu_uuids(self) -> set[str]:
        """Return the UUIDs of the GPUs that the engines computed on, as `EngineInfo.gpu_uuid`."""
        infos = (model.info for model in self._models)
        return {info.gpu_uuid for info in infos if info is not None and info.gpu_uuid is not None}

    def find(self, name: str | None) -> ServedModel:
        """Return the model or adapter that the caller's request names, by default the first model. Raises
        ModelNotFound."""
        names = self.visible_names
        wanted = self.default.name if name is None else self.canonical(name)
        if wanted in names:
            if (adapter := self.adapters.get(wanted)) is None:
                return self._by_name[wanted]
            current = partial(self.adapters.current, wanted)
            return self._by_name[adapter.base_name].with_adapter(adapter, current)
        served = ", ".join(repr(known) for known in names) or "none for this key"
        if name is None:
            raise ModelNotFound(
                f"the request has no model, and its key does not allow the default one; it allows {served}"
            )
        raise ModelNotFound(f"the model {quote(name)} is not served here; this server has {served}")

    def is_model_name(self, name: str) -> bool:
        """Whether the name is one of a model, not of an adapter."""
        return self.canonical(name) in self._by_name

    def canonical(self, name: str) -> str:
        """Return the model's name if `name` is an alias, else `name`."""
        return self.aliases.get(name, name)

    def base_model(self, name: str | None) -> ServedModel:
        """Return the model with this name, as the base of an adapter; for None, the only model that can have adapters.

        Raises InvalidRequest if no model with this name can have adapters, or the name is None and several models can.
        """
        able = [model for model in self._models if model.has_adapters]
        if not able:
            raise InvalidRequest(
                "this server serves no LoRA adapters; start it with --enable-lora and a model that generates text"
            )
        if name is None and len(able) == 1:
            return able[0]
        name = None if name is None else self.canonical(name)
        known = ", ".join(repr(model.name) for model in able)
        if name is None:
            raise InvalidRequest(
                f"base_model_name is missing; it must name the adapter's model, one of {known}",
                param="base_model_name",
            )
        found = next((model for model in able if name in model.names), None)
        if found is None:
            raise InvalidRequest(
                f"base_model_name is {quote(name)}; models that can have adapters are {known}", param="base_model_name"
            )
        return found

    def add_configured_adapters(self, config: LoraConfig, *, kinds_known: bool = True) -> None:
        """Add the adapters of --lora-modules, whose files are read later. Raises OptionError for invalid LoRA options.

        kinds_known: whether it is known which models are pooling models, which cannot have adapters. If not, adapters
        whose base model is ambiguous are skipped.
        """
        if config.adapter_dir is not None and not any(model.has_adapters for model in self):
            raise OptionError("--adapter-dir is given, and no model has --enable-lora; add it, or leave the folder out")
        for module in config.modules:
            if self.is_model_name(module.name):
                raise OptionError(
                    f"--lora-modules has the name {module.name!r}, which is a model's; give the adapter another one"
                )
            try:
                base = self.base_model(module.base_model_name)
            except InvalidRequest as error:
                if module.base_model_name is None and not kinds_known:
                    continue
                raise OptionError(f"--lora-modules {module.name}: {error}") from error
            self.adapters.add(ServedAdapter(module.name, module.path, base.name))

    @property
    def num_unfinished(self) -> int:
        """Number of requests in the engines or being prepared for them."""
        return sum(model.num_unfinished for model in self._models)

    @property
    def has_work(self) -> bool:
        """Whether a model is loading, or a request runs or waits."""
        return any(model.has_work for model in self._models)

    def close_live_feeds(self) -> None:
        """End the event streams to all dashboards."""
        for model in self._models:
            model.live.close()

    @property
    def metrics(self) -> list[Metrics]:
        return [model.metrics for model in self._models]

    @property
    def infos(self) -> dict[str, EngineInfo]:
        """Engines' descriptions of the models that have been loaded at least once and are not failed, by name."""
        healthy = [model for model in self._models if model.state is not ModelState.FAILED]
        return {model.name: info for model in healthy if (info := model.info) is not None}

    @property
    def first_loaded(self) -> ServedModel:
        """The first model that is loaded now, else the first that was loaded before. Requires that there is one."""
        known = [model for model in self._models if model.info is not None]
        return next((model for model in known if model.state is ModelState.LOADED), known[0])

    @property
    def overview(self) -> list[ModelSummary]:
        """State of each model, for dashboards."""
        return [ModelSummary(each.name, each.state.value, each.client.status().num_open) for each in self._models]

    @property
    def num_watchers(self) -> int:
        """Number of dashboards that watch an engine."""
        return sum(model.live.num_watchers for model in self._models)

    def story(self, request_id: str) -> RequestStory:
        """Return the newest request's history with this request id or answer id. Raises RequestNotKnown."""
        found = [each for model in self._models if (each := model.live.requests.find(request_id)) is not None]
        if not found:
            raise request_not_known(request_id)
        return max(found, key=lambda story: story.request.began_ms)

    def get_or_default(self, name: str | None) -> ServedModel:
        """Return the model, or the base model of the adapter, with this name; the first model if there is none."""
        if name is None:
            return self.default
        return self._by_name.get(self.adapters.base_name(self.canonical(name)), self.default)

    def check_queue(self) -> None:
        """Raise QueueFull or EngineUnavailable if no model can take another request."""
        refusal: HeadraceError | None = None
        for model in self._models:
            try:
                return model.check_queue_if_loaded()
            except HeadraceError as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal
