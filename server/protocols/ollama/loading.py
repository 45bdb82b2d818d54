"""The model that an Ollama client means, and how long it stays loaded."""

from typing import Any

from server.protocols.ollama.keep_alive import keep_alive_s
from server.protocols.ollama.names import served_name
from server.schemas.ollama import OllamaEmbeddingsRequest, OllamaEmbedRequest, OllamaRequest
from server.schemas.parameters import OLLAMA_PARAMETERS, ignored_parameters
from server.served.model import ServedModel
from server.served.models import ServedModels

OllamaBody = OllamaRequest | OllamaEmbedRequest | OllamaEmbeddingsRequest


def ollama_model(name: str, models: ServedModels) -> ServedModel:
    """Return the model that Ollama's clients mean by `name`. Raises ModelNotFound."""
    return models.find(served_name(name, models.visible_names))


def model_of(body: OllamaBody, models: ServedModels) -> ServedModel:
    """Return the model that the body names. Raises ModelNotFound."""
    return ollama_model(body.model, models)


def follows_keep_alive(model: ServedModel) -> bool:
    """Whether the model is loaded on demand; a pinned model stays loaded until an operator unloads it."""
    return model.loadable is not None and not model.loadable.is_pinned


def keep_loaded(model: ServedModel, keep_alive: float | str | None) -> bool:
    """Keep the model loaded as long as the request says. False if it does not follow keep_alive. Raises
    InvalidRequest."""
    if keep_alive is None or not follows_keep_alive(model):
        return False
    assert model.loader is not None
    model.loader.set_keep_alive(model.base_name, keep_alive_s(keep_alive))
    return True


def accept_fields(body: OllamaBody, model: ServedModel, unhonored: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the served name and the names of ignored fields, and keep the model loaded as long as the body says.
    unhonored: fields that are not translated, by their paths. Raises InvalidRequest."""
    if keep_loaded(model, body.keep_alive):
        del unhonored["keep_alive"]
    ignored = ignored_parameters(unhonored, strict=model.config.strict_parameters, table=OLLAMA_PARAMETERS)
    return served_name(body.model, model.visible_names), ignored


def check_keep_alive(keep_alive: float | str | None) -> None:
    """Raise InvalidRequest for a keep_alive that is not a time."""
    if keep_alive is not None:
        keep_alive_s(keep_alive)
