"""Lists of items: pages add up, in both orders."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.schemas.conversations import ListQuery
from server.state.records import item_list

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_pages_add_up(limit: int, order: str) -> None:
    items = [{"id": str(i)} for i in range(5)]
    got: list[dict[str, Any]] = []
    query = ListQuery.model_validate({"limit": limit, "order": order})
    while (page := item_list(items, query))["has_more"]:
        got += page["data"]
        query = query.model_copy(update={"after": page["last_id"]})
    assert [*got, *page["data"]] == (items if order == "asc" else items[::-1])
    with pytest.raises(InvalidRequest):
        item_list(items, ListQuery(after="none"))
