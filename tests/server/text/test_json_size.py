"""json_size: what is counted, and that a large value is not counted to its end."""

from typing import Any

import pytest

from server.text.workers import ITEM_SIZE, LONG_SIZE, json_size

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("values", "num_items", "num_characters"),
    [
        ((), 0, 0),
        (("abc",), 1, 3),
        ((None, True, 1.5), 3, 0),
        (({"name": "abc", "b": ["d", 2]},), 5, 9),
        (([[[]]],), 3, 0),
    ],
)
def test_texts_names_and_items_count(values: tuple[Any, ...], num_items: int, num_characters: int) -> None:
    assert json_size(*values) == num_items * ITEM_SIZE + num_characters


def test_any_depth_is_counted() -> None:
    nested: Any = []
    for _ in range(LONG_SIZE):
        nested = [nested]
    assert json_size(nested) == LONG_SIZE + ITEM_SIZE


def test_counting_ends_above_the_size_of_a_long_text() -> None:
    assert LONG_SIZE < json_size(["a" * 100] * 1_000_000) <= LONG_SIZE + ITEM_SIZE + 100


class _Large(dict[str, Any]):
    """Takes long to go through."""

    def values(self) -> Any:
        raise AssertionError

    def __iter__(self) -> Any:
        raise AssertionError


def test_nothing_is_looked_at_in_a_value_of_very_many_items() -> None:
    """The event loop waits."""
    assert json_size(_Large.fromkeys(map(str, range(LONG_SIZE // ITEM_SIZE + 1)))) > LONG_SIZE
