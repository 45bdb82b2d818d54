"""by_type: a validator of objects whose `type` selects one of several models."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from server.schemas.base import UNSUPPORTED, StrictModel, quote

_MAX_NAMED = 8  # types that an error message lists


def by_type(
    models: Mapping[str, type[StrictModel]], *, refused: Mapping[str, str] = {}, default: str | None = None
) -> Callable[[Any], Any]:
    """Return a validator that reads an object as the model of its type, with better errors than a union's.

    refused: known types that are not supported, with the reason. default: the type of an object without a type.
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
