"""The pure parts of benchmarks.structured_outputs.libraries: the order of instances, and the table."""

from typing import Any

import pytest

from benchmarks.structured_outputs.instance_order import spellings
from benchmarks.structured_outputs.libraries import CaseResult, _column, _follow, _forced

pytestmark = pytest.mark.fast

_CITY = {"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}}
_LIST = {"type": "array", "items": {"$ref": "#/$defs/city"}, "$defs": {"city": _CITY}}


@pytest.mark.parametrize(
    ("schema", "instance", "expected"),
    [
        (_CITY, {"size": 1, "name": "a"}, [["size", "name"], ["name", "size"]]),
        (_CITY, {"name": "a", "size": 1}, [["name", "size"]]),
        (_CITY, {"more": 0, "name": "a"}, [["more", "name"], ["name", "more"]]),
    ],
)
def test_an_instance_is_spelled_as_it_is_and_as_its_schema_lists_it(
    schema: dict[str, Any], instance: dict[str, Any], expected: list[list[str]]
) -> None:
    found = list(spellings(instance, schema))
    assert [list(each) for each in found] == expected
    assert all(each == instance for each in found)


def test_items_are_ordered_through_references() -> None:
    *_, ordered = spellings([{"size": 1, "name": "a"}], _LIST)
    assert list(ordered[0]) == ["name", "size"]


class _Digits:
    """Takes three tokens below 10, the second of which must be 7."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def fill_mask(self) -> None:
        pass

    def accept(self, token_id: int) -> bool:
        is_right = token_id == 7 if len(self.taken) == 1 else token_id < 10
        self.taken += [token_id] * is_right
        return is_right

    def can_end(self) -> bool:
        return len(self.taken) == 3

    def num_forced(self, token_ids: list[int]) -> int:
        return int(len(self.taken) == 1 and token_ids[:1] == [7])


def test_an_instance_is_followed_to_its_end_or_its_first_wrong_token() -> None:
    result = CaseResult()
    assert _follow(_Digits(), [1, 7, 2], result)
    assert not _follow(_Digits(), [1, 8, 2], result)
    assert not _follow(_Digits(), [1, 7], result)
    assert len(result.mask_ms) == len(result.mask_cpu_ms) == 3 + 2 + 2
    assert _forced(_Digits(), [1, 7, 2]) == 1


def test_the_table_counts_what_was_taken() -> None:
    right = CaseResult("", 2.0, [0.1, 3.0], [0.1, 0.3], 4, 3, 5, 1, 10, 2, 1000)
    slow = CaseResult(mask_ms=[1.2, 1.2], mask_cpu_ms=[1.1, 0.5])
    column = _column([right, slow, CaseResult(error="timeout"), CaseResult(error="refused")])
    assert column["schemas taken"] == "2 (50.0%)"
    assert column["timeouts"] == "1"
    assert column["valid instances accepted"] == "3 of 4 (75.0%)"
    assert column["invalid instances accepted"] == "1 of 5 (20.0%)"
    assert column["schemas that accept an invalid instance"] == "1"
    assert column["mask, ms a token: mean, p99, max"].startswith("1.375, 2.95, 3")
    assert column["the same, of the thread's time"].startswith("0.500, 1.08, 1.1")
    assert column["masks over 1 ms of it; schemas with any"] == "25.00%; 1"
    assert column["forced tokens"] == "2 of 10 (20.0%)"
