"""The model that an Ollama client means, and how long it stays loaded."""

from server.protocols.ollama.keep_alive import keep_alive_s
from server.protocols.ollama.names import served_name
from server.served.model import ServedModel
from server.served.models import ServedModels


def ollama_model(name: str, models: ServedModels) -> ServedModel:
    """Return the model that Ollama's clients mean by `name`. Raises ModelNotFound."""
    return models.find(served_name(name, models.visible_names))


def follows_keep_alive(model: ServedModel) -> bool:
    """Whether the model is loaded on demand; a pinned model stays loaded until an operator unloads it."""
    return model.loadable is not None and not model.loadable.is_pinned


def keep_loaded(model: ServedModel, keep_alive: float | str | None) -> bool:
    """Keep the model loaded as long as the request says. False if it does not follow keep_alive.

    Raises InvalidRequest.
    """
    if keep_alive is None or not follows_keep_alive(model):
        return False
    assert model.loader is not None
    model.loader.set_keep_alive(model.base_name, keep_alive_s(keep_alive))
    return True


def check_keep_alive(keep_alive: float | str | None) -> None:
    """Raise InvalidRequest for a keep_alive that is not a time."""
    if keep_alive is not None:
        keep_alive_s(keep_alive)
