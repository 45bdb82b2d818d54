"""The body of POST /v1/batches, and query parameters of lists of batches."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from server.schemas.base import StrictModel
from server.schemas.files import ExpiresAfter
from server.schemas.responses import Metadata

_WINDOW = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_UNITS_S = {"m": 60, "h": 3600, "d": 86400}
_MAX_WINDOW_S = 30 * 86400


def window_s(window: str) -> int:
    """Convert a valid completion window, such as 24h, to seconds."""
    match = _WINDOW.fullmatch(window)
    assert match is not None, "the schema has checked it"
    return int(match[1]) * _UNITS_S[match[2]]


def _checked_window(window: str) -> str:
    if not _WINDOW.fullmatch(window) or window_s(window) > _MAX_WINDOW_S:
        raise PydanticCustomError("window", "it must be a number of minutes, hours or days up to 30d, such as 24h")
    return window


class BatchRequest(StrictModel):
    input_file_id: str
    endpoint: str
    completion_window: Annotated[str, AfterValidator(_checked_window)]
    metadata: Metadata = None
    output_expires_after: ExpiresAfter | None = None

    inner_fields = ("output_expires_after",)


class BatchListQuery(StrictModel):
    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
