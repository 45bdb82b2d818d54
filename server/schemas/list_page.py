"""ListPage: a page of one of OpenAI's lists."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import msgspec


class ListPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list. first_id, last_id: ids of the first and the last item in its `data`."""

    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool
    data: list[Any]

    @classmethod
    def of(cls, data: Sequence[Any], *, has_more: bool) -> Self:
        """Return a page of objects that have an id."""
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=list(data), first_id=first, last_id=last, has_more=has_more)
