"""The rows of `headrace calibrate`: answers are matched to labels, and lines that are no rows are refused by number."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import OptionError
from server.commands.calibrate.rows import KnownRow, read_known_rows
from server.decisions.decision import Kind

pytestmark = pytest.mark.fast

PREDICATE = {"type": "predicate", "name": "afloat", "instructions": "It floats."}
CHOICE = {"type": "choice", "instructions": "", "choices": [{"value": "a"}, {"value": True}, {"value": "true"}]}
SCORE = {"type": "score", "instructions": "", "levels": [{"label": "dry"}, {"label": "wet"}]}
BODY = {"input": "A raft.", "questions": [PREDICATE, CHOICE, SCORE]}


def _read(tmp_path: Path, *lines: Any, max_line_bytes: int = 10_000) -> list[KnownRow]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in lines))
    return read_known_rows(str(path), min_mass=0.01, max_line_bytes=max_line_bytes)


def test_answers_are_matched_to_labels(tmp_path: Path) -> None:
    first, second, third = _read(
        tmp_path,
        {"body": BODY, "answers": [True, "true", 1]},
        "",
        {"body": BODY, "answers": [False, True, 0]},
        {"body": {**BODY, "input": [{"role": "user", "content": "Another."}]}, "answers": [None, "a", None]},
    )
    assert [each.right for each in (first, second, third)] == [[0, 2, 1], [1, 1, 0], [None, 0, None]]
    assert [each.number for each in (first, second, third)] == [1, 3, 4]
    assert first.questions == [(Kind.PREDICATE, "afloat"), (Kind.CHOICE, None), (Kind.SCORE, None)]
    assert first.input_id == second.input_id != third.input_id


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no JSON", r'malformed.*; write \{"body"'),
        ("[1]", r"Expected `object`.*; write"),
        ({"body": BODY}, r"missing required field `answers`"),
        ({"body": BODY, "answers": [True, "a", 1], "more": 1}, "unknown field `more`"),
        ({"body": {**BODY, "questions": []}, "answers": []}, r"body: .*questions"),
        ({"body": {**BODY, "input": " "}, "answers": [True, "a", 1]}, "body: input is empty"),
        ({"body": BODY, "answers": [True]}, "1 answers to 3 questions; give one for each, null if unknown"),
        ({"body": BODY, "answers": ["yes", "a", 1]}, r'answers\[0\] is "yes".*a predicate.*true, false; give one'),
        ({"body": BODY, "answers": [1, "a", 1]}, r"answers\[0\] is 1"),
        ({"body": BODY, "answers": [True, "b", 1]}, r'answers\[1\] is "b".*a choice.*"a", true, "true"; give one'),
        ({"body": BODY, "answers": [True, "a", 2]}, r"answers\[2\] is 2.*a score.*0, 1; give one"),
        ({"body": BODY, "answers": [True, "a", True]}, r"answers\[2\] is true"),
        ({"body": BODY, "answers": [True, "a", "wet"]}, r'answers\[2\] is "wet"'),
        ({"body": {**BODY, "input": "x" * 9_999}, "answers": [True, "a", 1]}, "the limit is 10,000"),
    ],
)
def test_a_line_that_is_no_row_is_refused_by_its_number(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"nothing was computed\n  line 2: .*{message}"):
        _read(tmp_path, {"body": BODY, "answers": [True, "a", 1]}, line)


def test_only_the_first_faults_are_listed(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"line 5: .*\n  and 2 more$"):
        _read(tmp_path, *["x"] * 7)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has no rows"):
        _read(tmp_path, "")
    with pytest.raises(OptionError, match=r"cannot read .*: No such file"):
        read_known_rows(str(tmp_path / "none"), min_mass=0, max_line_bytes=1)
