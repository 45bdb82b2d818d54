"""within_context: `truncation: auto`, which drops the oldest items until the rest fits."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from engine.errors import ContextLengthExceeded
from server.schemas.response_items import (
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    MessageItem,
)

T = TypeVar("T")
Attempt = Callable[[frozenset[int]], Awaitable[T]]  # with the items of these positions left out

_CALLS = (FunctionCallItem, CustomToolCallItem)
_OUTPUTS = (FunctionCallOutputItem, CustomToolCallOutputItem)


async def within_context(items: Sequence[InputItem], attempt: Attempt[T]) -> T:
    """What the first attempt gives that raises no ContextLengthExceeded, with as few items left out as possible.

    System and developer messages stay, and so does what came last. Raises ContextLengthExceeded if that is too long.
    """
    try:
        return await attempt(frozenset())
    except ContextLengthExceeded:
        choices = droppable(items)
        if not choices:
            raise
    best = await attempt(choices[-1])  # if this is too long everything is
    low, high = 0, len(choices) - 1  # choices[high] fits
    while low < high:
        middle = (low + high) // 2
        try:
            best = await attempt(choices[middle])
            high = middle
        except ContextLengthExceeded:
            low = middle + 1
    return best


def droppable(items: Sequence[InputItem]) -> list[frozenset[int]]:
    """What may be left out, each more than the one before. A call and its output go together."""
    choices: list[frozenset[int]] = []
    dropped: list[int] = []
    due: set[str] = set()  # calls that are dropped, and whose outputs are not yet
    last = max((index for index, item in enumerate(items) if not _stays(item)), default=0)
    for index, item in enumerate(items[:last]):
        if _stays(item):
            continue
        dropped.append(index)
        if isinstance(item, _CALLS):
            due.add(item.call_id)
        elif isinstance(item, _OUTPUTS):
            due.discard(item.call_id)
        if not due:
            choices.append(frozenset(dropped))
    return choices


def _stays(item: InputItem) -> bool:
    return isinstance(item, MessageItem) and item.role in ("system", "developer")
