"""ListPage: a page of one of OpenAI's lists."""

from typing import Literal

import msgspec


class ListPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list. first_id, last_id: ids of the first and the last item in its `data`."""

    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool
