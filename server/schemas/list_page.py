"""ListPage: OpenAI's lists, a page at a time."""

from typing import Literal

import msgspec


class ListPage(msgspec.Struct, frozen=True, kw_only=True):
    """What a page has beside its `data`. first_id, last_id: of what is on it."""

    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool
