"""Ollama's `options` as the fields of a chat or completion. What becomes of the others, schemas/parameters.py says."""

from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidRequest
from server.schemas.base import quote

# Options by the names of the fields that honor them.
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

# For errors and ignored fields: chat's names of what the client calls an option.
OPTION_NAMES: Mapping[str, str] = {field: f"options.{option}" for option, field in _FIELDS.items()}

_UNLIMITED = (-1, -2)  # without end, and until the context is full: here both end with the context
_RANDOM_SEED = -1


def option_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that `options` set."""
    fields = {field: options[option] for option, field in _FIELDS.items() if options.get(option) is not None}
    if fields.get("seed") == _RANDOM_SEED:
        del fields["seed"]
    return fields


def output_limit(options: Mapping[str, Any]) -> int | None:
    """num_predict; None where it sets no limit. Raises InvalidRequest."""
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
    """Those that are not honored, by their path. A num_ctx that is the context's length asks for nothing."""
    return {
        f"options.{option}": value
        for option, value in options.items()
        if option != "num_predict" and option not in _FIELDS and not (option == "num_ctx" and value == max_model_len)
    }
