"""Bodies of routes for the server's operator."""

from typing import Literal

from server.schemas.base import StrictModel


class LogLevelRequest(StrictModel):
    level: Literal["debug", "info", "warning", "error"]
