"""Files of lines: what each format gives, and what is refused in which words."""

import json
from pathlib import Path

import pytest

from engine.errors import OptionError
from server.data.formats import read_lines
from server.data.lines import FaultyData, LineKind, parse_line

pytestmark = pytest.mark.fast


def _read(tmp_path: Path, name: str, content: str) -> list[tuple[int, object]]:
    path = tmp_path / name
    path.write_bytes(content.encode())
    return [(number, json.loads(data)) for number, data in read_lines(str(path))]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '\ufeff{"text": "a"}\n\n{"text": "b"}', [(1, {"text": "a"}), (3, {"text": "b"})]),
        ("a.json", '[{"text": "a"}, {"text": "b"}]', [(1, {"text": "a"}), (2, {"text": "b"})]),
        ("a.txt", "one\ntwo\r\n\n\nthree\n", [(1, {"text": "one\ntwo"}), (5, {"text": "three"})]),
        ("a.csv", 'prompt,completion\n"a, b","c\nd"\ne,f\n', [
            (3, {"prompt": "a, b", "completion": "c\nd"}), (4, {"prompt": "e", "completion": "f"})
        ]),
        ("b.csv", 'messages\n"[{""role"": ""user""}]"\n', [(2, {"messages": [{"role": "user"}]})]),
    ],
)  # fmt: skip
def test_each_format_is_lines_with_numbers(tmp_path: Path, name: str, content: str, expected: object) -> None:
    assert _read(tmp_path, name, content) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", "", "is a .parquet file; .jsonl, .json, .csv, .txt are read: convert it to JSON lines"),
        ("a.json", "{", "not valid JSON; a .json file is a list"),
        ("a.json", "{}", "the file is not a list"),
        ("a.csv", "text\na,b\n", "line 2: it has more or fewer columns"),
        ("a.csv", "text,,,text\na,,,b\n", "line 1: columns 1 and 4 have the same name; rename or remove one"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises((OptionError, FaultyData), match=message):
        _read(tmp_path, name, content)


def test_bytes_that_are_no_utf8_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\xff")
    with pytest.raises(FaultyData, match="line 2: a byte is not UTF-8"):
        list(read_lines(str(tmp_path / "a.txt")))


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("value", "kind", "segments"),
    [
        ({"messages": [{"role": "system", "content": "Be nice"}, USER, ANSWER]}, LineKind.CHAT, ["Hi", "Hello"]),
        ({"messages": [USER], "reference_answer": "x"}, LineKind.PROMPT, ["Hi"]),
        ({"messages": [{**USER, "content": [{"type": "text", "text": "a"}]}]}, LineKind.PROMPT, ["a"]),
        (
            {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]},
            LineKind.PREFERENCE,
            ["Hi", "Hello", "Hello"],
        ),
        ({"prompt": "a", "completion": "b"}, LineKind.COMPLETION, ["a", "b"]),
        ({"text": "a"}, LineKind.TEXT, ["a"]),
    ],
)
def test_each_kind_of_line_has_its_texts(value: object, kind: LineKind, segments: list[str]) -> None:
    line, _ = parse_line(json.dumps(value).encode(), 1)
    assert (line.kind, line.segments) == (kind, segments)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"a": 1}', "the line has the fields a; give one of the forms"),
        ('{"messages": []}', "messages must be a list of at least one message"),
        ('{"messages": [{"role": 1}]}', r"messages\[0\] must be an object with a role"),
        ('{"messages": [{"role": "user", "content": 1}]}', r"messages\[0\].content must be a string"),
        ('{"messages": [{"role": "user", "tool_calls": 5}]}', r"messages\[0\].tool_calls must be a list"),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": 5}', "tools must be a list"),
        ('{"text": "secret", "url": "x"}', r"url is not known; a line of this kind \(text\) has text: remove it"),
        ('{"input": {"messages": [{"role": "user"}]}, "preferred_output": []}', "preferred_output must be a list of"),
    ],
)
def test_other_lines_are_faulty_and_their_content_is_not_shown(data: str, message: str) -> None:
    with pytest.raises(FaultyData, match=message) as error:
        parse_line(data.encode(), 1)
    assert "secret" not in str(error.value)


def test_unknown_fields_can_be_dropped() -> None:
    line, dropped = parse_line(b'{"text": "a", "url": "x"}', 1, drops_fields=True)
    assert (line.value, dropped) == ({"text": "a"}, ["url"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"text": "a", "%s": 1}', "%s is not known; a line of this kind"),
        ('{"%s": 1}', "the line has the fields %s; give one of"),
    ],
)
def test_names_of_fields_are_masked_and_short(data: str, message: str) -> None:
    for name, masks, shown in (("ann@example.com", True, r"\[MAIL\]"), ("n" * 5000, False, "n{60}[.]{3}")):
        with pytest.raises(FaultyData, match=message.replace("%s", shown)):
            parse_line(data.replace("%s", name).encode(), 1, masks_names=masks)


def test_the_place_of_an_error_in_json_is_short_and_with_masks_not_named() -> None:
    data = b'{"text": "a", "%s": NaN}' % (b"n" * 5000)
    with pytest.raises(FaultyData, match=r"not valid JSON \(in n{1,60}\); each"):
        parse_line(data, 1)
    with pytest.raises(FaultyData, match="not valid JSON; each"):
        parse_line(data, 1, masks_names=True)


def test_dropped_fields_are_named_masked_and_short_and_many_fields_are_not_all_named() -> None:
    line = json.dumps({"text": "a", "ann@example.com": 1, "n" * 5000: 2}).encode()
    _, dropped = parse_line(line, 1, drops_fields=True, masks_names=True)
    assert dropped == ["[MAIL]", "n" * 60 + "..."]
    with pytest.raises(FaultyData, match=r"the fields 0, 1, 10, 11, 12, 13, 14, 15, 16, 17, [.]{3}; give"):
        parse_line(json.dumps({str(number): 1 for number in range(50)}).encode(), 1)


def test_a_row_of_csv_ends_at_line_ends_alone_and_may_be_long(tmp_path: Path) -> None:
    long = "a" * 200_000
    assert _read(tmp_path, "a.csv", f"text\na\x0cb\u2028c\n{long}\n") == [
        (2, {"text": "a\x0cb\u2028c"}),
        (3, {"text": long}),
    ]


def test_json_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FaultyData, match="not valid JSON"):
        _read(tmp_path, "a.json", "[" * 100_000)
