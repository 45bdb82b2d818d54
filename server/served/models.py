"""ServedModels: all models of one server, by their names."""

from collections.abc import Iterator, Sequence
from functools import partial

from engine.errors import HeadraceError, InvalidRequest
from engine.protocol import EngineInfo
from server.errors import ModelNotFound
from server.keys.caller import current_caller
from server.live.feed import Model
from server.live.request_stories import RequestStory
from server.live.request_table import not_known
from server.metrics.values import Metrics
from server.schemas.base import quote
from server.served.adapters import ServedAdapters
from server.served.arrivals import Activity
from server.served.loadable_model import ModelState
from server.served.model import ServedModel


class ServedModels:
    """At least one model, and adapters of theirs; no two have a name in common. A request without a name means the
    first model."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        assert models, "a server has a model"
        self.have_started = False  # those, of several, that are loaded at the start
        self.adapters = ServedAdapters()
        self.activity = Activity()
        self._models = tuple(models)
        for model in models:
            model.activity = self.activity
        self._by_name = {name: model for model in models for name in model.names}
        assert len(self._by_name) == sum(len(model.names) for model in models), "one name, one model"

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    @property
    def default(self) -> ServedModel:
        return self._models[0]

    @property
    def only_name(self) -> str | None:
        """Of the model that every request is for; None where there are several."""
        return self.default.name if len(self._models) == 1 else None

    @property
    def callers_names(self) -> tuple[str, ...]:
        """The names that the request's caller may ask for, those of adapters last."""
        caller = current_caller()
        adapters = (each.name for each in self.adapters if each.is_for(caller))
        return (*(name for model in self._models for name in model.callers_names), *adapters)

    def find(self, name: str | None) -> ServedModel:
        """The model that a request of this caller means by `name`. Raises ModelNotFound."""
        names = self.callers_names
        wanted = self.default.name if name is None else name
        if wanted in names:
            return self._named(wanted)
        served = ", ".join(repr(known) for known in names) or "none for this key"
        if name is None:
            raise ModelNotFound(f"the request names no model, and its key must; this server has {served}")
        raise ModelNotFound(f"the model {quote(name)} is not served here; this server has {served}")

    def _named(self, name: str) -> ServedModel:
        if (adapter := self.adapters.get(name)) is None:
            return self._by_name[name]
        return self._by_name[adapter.base_name].adapted(adapter, partial(self.adapters.current, name))

    def is_model(self, name: str) -> bool:
        """Whether a model has the name, and no adapter."""
        return name in self._by_name

    def base(self, name: str | None) -> ServedModel:
        """The model that an adapter is for. Raises InvalidRequest; None is right where only one can have adapters."""
        able = [model for model in self._models if model.has_adapters]
        if not able:
            raise InvalidRequest(
                "this server serves no LoRA adapters; start it with --enable-lora and a model that generates text"
            )
        if name is None and len(able) == 1:
            return able[0]
        known = ", ".join(repr(model.name) for model in able)
        if name is None:
            raise InvalidRequest(
                f"base_model_name is missing; it must say which model the adapter is for: {known}",
                param="base_model_name",
            )
        found = next((model for model in able if name in model.names), None)
        if found is None:
            raise InvalidRequest(
                f"base_model_name is {quote(name)}; models that can have adapters are {known}", param="base_model_name"
            )
        return found

    @property
    def num_unfinished(self) -> int:
        """Requests that the engines have, or will get."""
        return sum(model.num_unfinished for model in self._models)

    @property
    def has_work(self) -> bool:
        """Whether a request runs or waits, be it for its model or an engine."""
        return any(model.has_work for model in self._models)

    def close_watches(self) -> None:
        """End what watchers are told."""
        for model in self._models:
            model.live.close()

    @property
    def metrics(self) -> list[Metrics]:
        """Of each model."""
        return [model.metrics for model in self._models]

    @property
    def infos(self) -> dict[str, EngineInfo]:
        """What is known of each that has been loaded, and has not failed since."""
        well = [model for model in self._models if model.state is not ModelState.FAILED]
        return {model.name: info for model in well if (info := model.info) is not None}

    @property
    def first_loaded(self) -> ServedModel:
        """The first that is loaded, or else was, until a request for another had it unloaded. There must be one."""
        known = [model for model in self._models if model.info is not None]
        return next((model for model in known if model.state is ModelState.LOADED), known[0])

    @property
    def overview(self) -> list[Model]:
        """What watchers are told of each."""
        return [Model(each.name, each.state.value, each.client.status().num_open) for each in self._models]

    @property
    def num_watchers(self) -> int:
        """Of all models' engines."""
        return sum(model.live.num_watchers for model in self._models)

    def story(self, request_id: str) -> RequestStory:
        """What became of the newest request with this id, be it its own or its answer's. Raises RequestNotKnown."""
        found = [each for model in self._models if (each := model.live.requests.find(request_id)) is not None]
        if not found:
            raise not_known(request_id)
        return max(found, key=lambda each: each.arrival_s).story

    def named(self, name: str | None) -> ServedModel:
        """The model of a name that may be none's: the first one then."""
        return self.default if name is None else self._by_name.get(self.adapters.base_name(name), self.default)

    def check_queue(self) -> None:
        """Raise QueueFull, or EngineUnavailable, if no model takes one more request, whichever it is for."""
        refusal: HeadraceError | None = None
        for model in self._models:
            try:
                return model.check_new()
            except HeadraceError as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal
