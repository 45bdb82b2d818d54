"""within_context: `truncation: auto`, which leaves out the oldest items until the rest fits."""

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
Attempt = Callable[[frozenset[int]], Awaitable[T]]  # leaves out the items at these positions

_CALLS = (FunctionCallItem, CustomToolCallItem)
_OUTPUTS = (FunctionCallOutputItem, CustomToolCallOutputItem)


async def within_context(items: Sequence[InputItem], attempt: Attempt[T]) -> T:
    """Return the result of `attempt` with as few of the oldest items left out as the context requires.

    System and developer messages stay, and so does the last item. Raises ContextLengthExceeded if these are too long.
    """
    try:
        return await attempt(frozenset())
    except ContextLengthExceeded:
        positions, sizes = droppable(items)
        if not sizes:
            raise
    high = len(sizes) - 1
    best = await attempt(frozenset(positions))  # if this is too long, everything is
    # What fits is usually a small part of what is too long. So the search starts at the end and doubles its steps, and
    # an attempt costs about as much as what it keeps.
    low, step = 0, 1
    is_between = False  # leaving out sizes[low - 1] items is not enough
    while low < high:
        middle = (low + high) // 2 if is_between else max(low, high - step)
        try:
            best = await attempt(frozenset(positions[: sizes[middle]]))
            high, step = middle, 2 * step
        except ContextLengthExceeded:
            low, is_between = middle + 1, True
    return best


def droppable(items: Sequence[InputItem]) -> tuple[list[int], list[int]]:
    """Return (positions, counts): the positions of items that may be left out, oldest first; and, ascending, each count
    n for which the first n positions may be left out together, since no call is separated from its output.

    The last count is the number of positions.
    """
    positions: list[int] = []
    sizes: list[int] = []
    due: set[str] = set()  # dropped calls whose outputs come later
    last = max((index for index, item in enumerate(items) if not _stays(item)), default=0)
    for index, item in enumerate(items[:last]):
        if _stays(item):
            continue
        positions.append(index)
        if isinstance(item, _CALLS):
            due.add(item.call_id)
        elif isinstance(item, _OUTPUTS):
            due.discard(item.call_id)
        if not due:
            sizes.append(len(positions))
    return positions[: sizes[-1]] if sizes else [], sizes


def _stays(item: InputItem) -> bool:
    return isinstance(item, MessageItem) and item.role in ("system", "developer")
