"""Which model one of Ollama's requests means, and for how long it wants it loaded."""

from server.context import ServerContext
from server.protocols.ollama.keep_alive import keep_alive_s
from server.protocols.ollama.names import served_name
from server.served.model import ServedModel


def ollama_model(name: str, context: ServerContext) -> ServedModel:
    """The model that Ollama's clients mean by `name`. Raises ModelNotFound."""
    models = context.models
    return models.find(served_name(name, models.visible_names))


def heeds_keep_alive(model: ServedModel) -> bool:
    """Whether the model comes and goes: one that is pinned stays loaded until an operator unloads it."""
    return model.loadable is not None and not model.loadable.is_pinned


def keep_loaded(model: ServedModel, keep_alive: float | str | None) -> bool:
    """Have the model stay loaded as long as the request says; False where it is not heeded. Raises InvalidRequest."""
    if keep_alive is None or not heeds_keep_alive(model):
        return False
    assert model.loader is not None
    model.loader.set_keep_alive(model.base_name, keep_alive_s(keep_alive))
    return True


def check_keep_alive(keep_alive: float | str | None) -> None:
    """Raise InvalidRequest for what is no time, before a model is loaded for it."""
    if keep_alive is not None:
        keep_alive_s(keep_alive)
