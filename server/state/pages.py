"""item_list: a page of items, as a list of OpenAI's API."""

from collections.abc import Sequence
from typing import Any

from engine.errors import InvalidRequest
from server.schemas.base import quote
from server.schemas.conversations import ListQuery
from server.store.entries import Item, page_of


def item_list(items: Sequence[Item], query: ListQuery) -> dict[str, Any]:
    """Return a page of the items. Raises InvalidRequest if there is no item with the id `after`."""
    page = page_of(items, after=query.after, limit=query.limit, is_ascending=query.order == "asc")
    if page is None:
        raise InvalidRequest(f"after is {quote(query.after)}; there is no such item", param="after")
    return whole_list(page.items, has_more=page.has_more)


def whole_list(items: Sequence[Item], *, has_more: bool = False) -> dict[str, Any]:
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
