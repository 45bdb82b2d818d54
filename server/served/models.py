"""ServedModels: all models of one server, by their names."""

from collections.abc import Iterator, Sequence

from engine.errors import HeadraceError
from server.errors import ModelNotFound
from server.schemas.base import quote
from server.served.model import ServedModel


class ServedModels:
    """At least one model; no two have a name in common. A request without a name means the first."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        assert models, "a server has a model"
        self._models = tuple(models)
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
        """The names that the request's caller may ask for."""
        return tuple(name for model in self._models for name in model.callers_names)

    def find(self, name: str | None) -> ServedModel:
        """The model that a request of this caller means by `name`. Raises ModelNotFound."""
        names = self.callers_names
        wanted = self.default.name if name is None else name
        if wanted in names:
            return self._by_name[wanted]
        served = ", ".join(repr(known) for known in names) or "none for this key"
        if name is None:
            raise ModelNotFound(f"the request names no model, and its key must; this server has {served}")
        raise ModelNotFound(f"the model {quote(name)} is not served here; this server has {served}")

    @property
    def num_unfinished(self) -> int:
        """Requests that the engines have, or will get."""
        return sum(model.num_unfinished for model in self._models)

    def check_queue(self) -> None:
        """Raise QueueFull, or EngineUnavailable, if no model takes one more request, whichever it is for."""
        refusal: HeadraceError | None = None
        for model in self._models:
            try:
                return model.check_queue()
            except HeadraceError as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal
