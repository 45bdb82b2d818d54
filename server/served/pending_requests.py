"""Wishes: what operators asked of a model's being loaded, each told once what became of it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Wish:
    """To have a model loaded, or unloaded; over when it is, or with an error, and then `notify` is called once."""

    notify: Callable[[], None]
    is_over: bool = False
    error: Exception | None = None


def grant(wishes: list[Wish]) -> None:
    """End them all: what they ask for is so."""
    _end(wishes, lambda: None)


def refuse(wishes: list[Wish], error: Callable[[], Exception]) -> None:
    """End them all, each with an error of its own."""
    _end(wishes, error)


def _end(wishes: list[Wish], error: Callable[[], Exception | None]) -> None:
    while wishes:
        wish = wishes.pop(0)
        wish.is_over, wish.error = True, error()
        wish.notify()
