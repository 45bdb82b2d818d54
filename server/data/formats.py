"""Readers of training files: .jsonl, .json, .csv and .txt, each as numbered lines of JSON."""

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import OptionError
from server.data.lines import FaultyData

SUFFIXES = (".jsonl", ".json", ".csv", ".txt")
_JSON_COLUMNS = {
    *("messages", "tools", "functions", "input", "preferred_output", "non_preferred_output", "parallel_tool_calls"),
    *("preferred_completion", "non_preferred_completion"),
}


def check_suffix(path: str) -> None:
    """Raise OptionError for a file of another format, which the message names."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise OptionError(
            f"{path} is a {suffix or 'file without a suffix'}{' file' if suffix else ''}; {', '.join(SUFFIXES)} are "
            "read: convert it to JSON lines"
        )


def read_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, JSON of the line), without blank lines. Plain text is divided at blank lines.

    Raises OptionError for a file that cannot be read, and FaultyData for one that is not of its format.
    """
    check_suffix(path)
    try:
        with Path(path).expanduser().open("rb") as file:
            match Path(path).suffix.lower():
                case ".jsonl":
                    for number, line in enumerate(file, 1):
                        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                        if line.strip():
                            yield number, line
                case ".json":
                    yield from _members(file.read())
                case ".csv":
                    yield from _rows(decoded(file.read()))
                case _:
                    yield from paragraphs(decoded(file.read()))
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}; give another file") from error


def paragraphs(text: str) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, JSON) of the parts of a plain text between blank lines."""
    start = 0
    part: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            start = start if part else number
            part.append(line.rstrip("\r"))
        elif part:
            yield start, _dumped({"text": "\n".join(part)})
            part = []


def _members(data: bytes) -> Iterator[tuple[int, bytes]]:
    try:
        found = json.loads(data.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError):
        raise FaultyData("the file is not valid JSON; a .json file is a list of objects") from None
    if not isinstance(found, list):
        raise FaultyData("the file is not a list; a .json file is a list of objects, a .jsonl file has one per line")
    for number, each in enumerate(found, 1):
        yield number, _dumped(each)


def _rows(text: str) -> Iterator[tuple[int, bytes]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may be a long document
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        numbers: dict[str, int] = {}
        for number, name in enumerate(reader.fieldnames or (), 1):
            if name and (first := numbers.setdefault(name, number)) != number:
                raise FaultyData(f"line 1: columns {first} and {number} have the same name; rename or remove one")
        for row in reader:
            if None in row or None in row.values():
                raise FaultyData(f"line {reader.line_num}: it has more or fewer columns than the first line")
            yield reader.line_num, _dumped({name: _cell(name, cell) for name, cell in row.items() if name})
    except csv.Error as error:
        raise FaultyData(f"line {reader.line_num}: {error}; save it as CSV with quotes") from None


def _cell(name: str, cell: str) -> Any:
    if name not in _JSON_COLUMNS:
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell  # the check of the line says what it must be


def decoded(data: bytes) -> str:
    """Decode a text without its byte order mark. Raises FaultyData with the line of a byte that is not UTF-8."""
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise FaultyData(f"line {number}: a byte is not UTF-8; save the file as UTF-8") from None


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
