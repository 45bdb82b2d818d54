"""Choices of a file of rows, and their options in the opposite order."""

import json
from pathlib import Path

import pytest

from benchmarks.decisions.order import choices_in, reversed_options

pytestmark = pytest.mark.fast


def test_only_choices_are_asked_again_in_the_opposite_order(tmp_path: Path) -> None:
    choice = {"type": "choice", "instructions": "Which?", "choices": [{"value": "a"}, {"value": "b"}]}
    predicate = {"type": "predicate", "instructions": "It is so."}
    row = {"body": {"input": "x", "questions": [predicate, choice]}, "answers": [True, "b"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    ((text, question, answer),) = choices_in(tmp_path / "rows.jsonl")
    assert (text, question, answer) == ("x", choice, "b")
    assert [each["value"] for each in reversed_options(question)["choices"]] == ["b", "a"]
