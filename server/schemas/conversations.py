"""Bodies of /v1/conversations, and query parameters of its lists and of the list of a response's items."""

from typing import Annotated, Literal

from pydantic import Field

from server.schemas.base import StrictModel
from server.schemas.response_items import Items
from server.schemas.responses import Metadata

MAX_ITEMS = 20  # OpenAI's limit for one request


class ConversationRequest(StrictModel):
    items: Annotated[Items, Field(max_length=MAX_ITEMS)] | None = None
    metadata: Metadata = None


class ConversationUpdate(StrictModel):
    metadata: Metadata  # required as in OpenAI's API; null clears it


class ItemsRequest(StrictModel):
    items: Annotated[Items, Field(min_length=1, max_length=MAX_ITEMS)]


class ListQuery(StrictModel):
    """The query parameters of a paginated list."""

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
