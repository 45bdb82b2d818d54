"""Translation of Ollama's `options` to fields of a chat or completion. schemas/parameters.py handles other options."""

from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidRequest
from server.schemas.base import quote

# The field that honors each option.
_FIELDS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "stop": "stop",
}

# For errors and ignored fields: the client's option behind each field of a chat.
OPTION_NAMES: Mapping[str, str] = {field: f"options.{option}" for option, field in _FIELDS.items()}

_UNLIMITED = (-1, -2)  # unlimited, and until the context is full: here both end with the context
_RANDOM_SEED = -1


def option_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a chat or completion that Ollama's `options` set."""
    fields = {field: options[option] for option, field in _FIELDS.items() if options.get(option) is not None}
    if fields.get("seed") == _RANDOM_SEED:
        del fields["seed"]
    return fields


def output_limit(options: Mapping[str, Any]) -> int | None:
    """Return num_predict, the limit of output tokens; None for no limit. Raises InvalidRequest."""
    limit = options.get("num_predict")
    if limit is None or limit in _UNLIMITED:
        return None
    if type(limit) not in (int, float) or limit < 1 or limit != int(limit):
        raise InvalidRequest(
            f"options.num_predict is {quote(limit)}; it must be an integer of at least 1, or -1 for no limit",
            param="options.num_predict",
        )
    return int(limit)


def other_options(options: Mapping[str, Any], max_model_len: int) -> dict[str, Any]:
    """Return the untranslated options by path. Leaves out a num_ctx that equals the model's context length."""
    return {
        f"options.{option}": value
        for option, value in options.items()
        if option != "num_predict" and option not in _FIELDS and not (option == "num_ctx" and value == max_model_len)
    }
