"""by_type: objects that are one of several models, as their `type` says."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from server.schemas.base import UNSUPPORTED, StrictModel, quote

_MAX_NAMED = 8  # types that a message names


def by_type(
    models: Mapping[str, type[StrictModel]], *, refused: Mapping[str, str], default: str | None = None
) -> Callable[[Any], Any]:
    """A validator that reads an object as the model of its type. A union would complain that it is none of its members.

    refused: types that are known and not supported, with the reason. default: the type of an object without one.
    """

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise PydanticCustomError("object", "it must be an object")
        kind = value.get("type", default)
        if isinstance(kind, str) and kind in refused:
            raise PydanticCustomError(UNSUPPORTED, "its type is {kind}: {why}", {"kind": kind, "why": refused[kind]})
        model = models.get(kind) if isinstance(kind, str) else None
        if model is None:
            known = [*models][:_MAX_NAMED]
            raise PydanticCustomError(
                "type",
                "its type is {kind}; it must be one of {known}",
                {"kind": quote(kind), "known": ", ".join(known) + (", ..." if len(models) > _MAX_NAMED else "")},
            )
        return model.model_validate(value)

    return read
