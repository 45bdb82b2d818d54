"""Ollama's model names, NAME:TAG with `latest` as the default tag, and keep_alive, the time a model stays loaded."""

import math
import re
from collections.abc import Sequence
from typing import Any

from engine.errors import InvalidRequest
from server.errors import ModelNotFound
from server.schemas.base import quote
from server.schemas.ollama import OllamaEmbeddingsRequest, OllamaEmbedRequest, OllamaRequest
from server.schemas.parameters import OLLAMA_PARAMETERS, ignored_parameters
from server.served.model import ServedModel
from server.served.models import ServedModels

LONGEST_S = 10 * 365 * 86_400.0  # beyond this a model is never unloaded; dates end with the year 9999
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_PART = re.compile(rf"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)({'|'.join(_UNITS)})")
# Matches the whole text, since searching for parts takes quadratic time
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_LATEST = ":latest"

OllamaBody = OllamaRequest | OllamaEmbedRequest | OllamaEmbeddingsRequest


def tagged(name: str) -> str:
    """Return a model's name with its tag, `latest` if it has none."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def ollama_model(name: str, models: ServedModels) -> ServedModel:
    """Return the model that an Ollama client calls `name`. Raises ModelNotFound."""
    served = models.visible_names
    found = _served_name(models.canonical(name.removesuffix(_LATEST)), served)
    if found is None:
        names = ", ".join(repr(tagged(known)) for known in served) or "none for this key"
        raise ModelNotFound(f"the model {quote(name)} is not served here; this server has {names}")
    return models.find(found)


def _served_name(name: str, served: Sequence[str]) -> str | None:
    """Return the name among `served` that an Ollama client calls `name`, or None."""
    return name if name in served else next((known for known in served if tagged(known) == tagged(name)), None)


def model_of(body: OllamaBody, models: ServedModels) -> ServedModel:
    """Return the model that the body names. Raises ModelNotFound."""
    return ollama_model(body.model, models)


def follows_keep_alive(model: ServedModel) -> bool:
    """Whether keep_alive applies to the model: it is loaded on demand, and not pinned by an operator."""
    return model.loadable is not None and not model.loadable.is_pinned


def keep_loaded(model: ServedModel, keep_alive: float | str | None) -> bool:
    """Apply the request's keep_alive, and return whether it was given and applies to the model. Raises
    InvalidRequest."""
    if keep_alive is None or not follows_keep_alive(model):
        return False
    assert model.loader is not None
    model.loader.set_keep_alive(model.base_name, keep_alive_s(keep_alive))
    return True


def accept_fields(body: OllamaBody, model: ServedModel, unhonored: dict[str, Any]) -> tuple[str, list[str]]:
    """Apply the body's keep_alive, and return the served name and the names of ignored fields. unhonored: untranslated
    fields by path. Raises InvalidRequest."""
    if keep_loaded(model, body.keep_alive):
        del unhonored["keep_alive"]
    ignored = ignored_parameters(unhonored, strict=model.config.strict_parameters, table=OLLAMA_PARAMETERS)
    return _served_name(body.model, model.visible_names) or model.name, ignored


def check_keep_alive(keep_alive: float | str | None) -> None:
    """Raise InvalidRequest unless keep_alive is a duration."""
    if keep_alive is not None:
        keep_alive_s(keep_alive)


def keep_alive_s(value: float | str) -> float:
    """Return the seconds from the last request to unloading; infinite if negative or beyond ten years.

    value: a number of seconds, or a duration in Go's form: "5m", "1h30m", "-1". Raises InvalidRequest.
    """
    if not isinstance(value, str):
        return math.inf if value < 0 or value > LONGEST_S else float(value)
    text = value.strip()
    is_negative = text.startswith("-")
    digits = text.lstrip("+-")
    seconds = float(digits) if _SECONDS.fullmatch(digits) else _duration(digits)
    if seconds is None:
        raise InvalidRequest(
            f'keep_alive is {value[:40]!r}; it must be a number of seconds or a duration such as "5m"',
            param="keep_alive",
        )
    return math.inf if (is_negative and seconds) or seconds > LONGEST_S else seconds


def _duration(text: str) -> float | None:
    if _DURATION.fullmatch(text) is None:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
