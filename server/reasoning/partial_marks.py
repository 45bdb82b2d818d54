"""partial_mark: the part at a text's end that may be the beginning of a mark."""

from collections.abc import Iterable


def partial_mark(text: str, marks: Iterable[str]) -> int:
    """Return the largest number of characters at the end of `text` that begin a mark without completing it."""
    return max((_partial(text, mark) for mark in marks), default=0)


def _partial(text: str, mark: str) -> int:
    longest = min(len(mark) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if mark.startswith(text[-size:])), 0)
