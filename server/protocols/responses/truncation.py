"""within_context: `truncation: auto`, which leaves out the oldest items until the rest fits."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, overload

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
    """Return the result of the attempt that leaves out the fewest items and raises no ContextLengthExceeded.

    System and developer messages stay, and so does the last item. Raises ContextLengthExceeded if these are too long.
    """
    try:
        return await attempt(frozenset())
    except ContextLengthExceeded:
        choices = droppable(items)
        if not choices:
            raise
    high = len(choices) - 1
    best = await attempt(choices[high])  # if this is too long, everything is
    # What fits is usually a small part of what is too long. So the search starts at the end and doubles its steps, and
    # an attempt costs about as much as what it keeps.
    low, step = 0, 1
    is_between = False  # choices[low - 1] is too long
    while low < high:
        middle = (low + high) // 2 if is_between else max(low, high - step)
        try:
            best = await attempt(choices[middle])
            high, step = middle, 2 * step
        except ContextLengthExceeded:
            low, is_between = middle + 1, True
    return best


class Choices(Sequence[frozenset[int]]):
    """Sets of positions that may be left out, each larger than the one before. A set is made when it is read, since all
    together have as many positions as the square of the number of items."""

    def __init__(self, positions: Sequence[int], sizes: Sequence[int]) -> None:
        """positions: in the order in which they are left out. sizes: how many of them each choice has."""
        self._positions = positions
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, number: int) -> frozenset[int]: ...
    @overload
    def __getitem__(self, number: slice) -> "Choices": ...
    def __getitem__(self, number: int | slice) -> "frozenset[int] | Choices":
        if isinstance(number, slice):
            return Choices(self._positions, self._sizes[number])
        return frozenset(self._positions[: self._sizes[number]])


def droppable(items: Sequence[InputItem]) -> Choices:
    """Return the sets of positions that may be left out. A call and its output go together."""
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
    return Choices(positions, sizes)


def _stays(item: InputItem) -> bool:
    return isinstance(item, MessageItem) and item.role in ("system", "developer")
