"""Traces of requests: read from files in the formats of Mooncake and Azure, or drawn at random."""

import csv
import datetime
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.command_io.lengths import parse_lengths
from engine.errors import OptionError

MOONCAKE_BLOCK = 512  # tokens for each hash id
_MAX_TOKENS = 2**24  # of a prompt or an answer; each is a list in memory
_MAX_BLOCK_ID = 2**63 - 1  # tokens are 64-bit integers
_AZURE_COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
_EMPTY = "it is empty; remove it"
_MAX_SHOWN = 80  # characters of a line in a message


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """A request of a trace. block_ids: numbers of its prompt's blocks of `block_tokens` tokens; equal numbers are equal
    tokens. Tokens behind the last block are the request's own."""

    arrival_s: float  # from the first request of the trace
    num_prompt: int
    num_output: int
    block_ids: tuple[int, ...] = ()
    block_tokens: int = MOONCAKE_BLOCK

    def prompt(self, own: int) -> list[int]:
        """Return the prompt's tokens. own: the token of all positions that it shares with no other request."""
        tokens: list[int] = []
        for block_id in self.block_ids:
            tokens += [block_id] * self.block_tokens
        del tokens[self.num_prompt :]
        return tokens + [own] * (self.num_prompt - len(tokens))


class _MooncakeLine(msgspec.Struct):
    timestamp: float  # milliseconds
    input_length: int
    output_length: int
    hash_ids: list[int]


_MOONCAKE_FIELDS: dict[str, tuple[Any, str]] = {
    "timestamp": (float, "a number of milliseconds"),
    "input_length": (int, "a whole number"),
    "output_length": (int, "a whole number"),
    "hash_ids": (list[int], "a list of whole numbers"),
}


def read_trace(path: str, *, rate_factor: float = 1.0, limit: int | None = None) -> list[TraceRequest]:
    """Read a trace, in order of arrival. Lines of JSON are Mooncake's format, and CSV is Azure's.

    rate_factor: how many times as fast the requests come. limit: read only the first requests. Raises OptionError with
    the number of a line that cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise OptionError(f"cannot read the trace {path}: {reason}") from error
    if not lines:
        raise OptionError(f"the trace {path} is empty; it needs one request on each line")
    if not lines[0].strip():
        raise _unreadable(path, 1, _EMPTY)
    is_json = lines[0].lstrip().startswith("{")
    requests: list[TraceRequest] = []
    for number, request in _mooncake(path, lines) if is_json else _azure(path, lines):
        if requests and request.arrival_s < requests[-1].arrival_s:
            raise _unreadable(path, number, "it comes before the request of the line above; sort the trace by time")
        requests.append(request)
        if len(requests) == limit:
            break
    if not requests:
        raise OptionError(f"the trace {path} has no requests")
    first_s = requests[0].arrival_s
    return [
        TraceRequest((each.arrival_s - first_s) / rate_factor, each.num_prompt, each.num_output, each.block_ids)
        for each in requests
    ]


def _unreadable(path: str, number: int, reason: str) -> OptionError:
    return OptionError(f"line {number:,} of the trace {path} cannot be used: {reason}")


def _mooncake(path: str, lines: list[str]) -> Iterator[tuple[int, TraceRequest]]:
    decoder = msgspec.json.Decoder(_MooncakeLine)
    for number, text in enumerate(lines, 1):
        try:
            line = decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise _unreadable(path, number, _mooncake_fault(text)) from error
        if len(line.hash_ids) * MOONCAKE_BLOCK < line.input_length:
            held = len(line.hash_ids) * MOONCAKE_BLOCK
            raise _unreadable(
                path, number, f"its hash_ids are {held:,} tokens, and input_length is {line.input_length:,}"
            )
        if min(line.hash_ids, default=0) < 0:
            raise _unreadable(path, number, f"{min(line.hash_ids)} in hash_ids is negative")
        if max(line.hash_ids, default=0) > _MAX_BLOCK_ID:
            raise _unreadable(path, number, f"{max(line.hash_ids)} in hash_ids is above {_MAX_BLOCK_ID}")
        lengths = (line.input_length, line.output_length)
        yield number, _checked(path, number, line.timestamp / 1000, *lengths, tuple(line.hash_ids))


def _mooncake_fault(text: str) -> str:
    """Describe the first fault of a line that is not a request in Mooncake's format."""
    if not text.strip():
        return _EMPTY
    try:
        line = msgspec.json.decode(text)
    except msgspec.DecodeError:
        line = None
    if not isinstance(line, dict):
        return f"{text[:_MAX_SHOWN]!r} is not a whole JSON object; it must have {', '.join(_MOONCAKE_FIELDS)}"
    for name, (kind, description) in _MOONCAKE_FIELDS.items():
        if name not in line:
            return f"it has no {name}, which must be {description}"
        try:
            msgspec.convert(line[name], kind)
        except msgspec.ValidationError:
            return f"{name} is {line[name]!r:.{_MAX_SHOWN}}; it must be {description}"
    return "a field is given twice"  # the second value hides the first, which was at fault


def _azure(path: str, lines: list[str]) -> Iterator[tuple[int, TraceRequest]]:
    if (header := _split(path, 1, lines[0])) != _AZURE_COLUMNS:
        columns, given = ",".join(_AZURE_COLUMNS), ",".join(header)[:_MAX_SHOWN]
        raise _unreadable(path, 1, f"it is {given!r}; it must be {columns}, or a JSON object of Mooncake's format")
    for number, text in enumerate(lines[1:], 2):
        row = _split(path, number, text)
        if len(row) != len(_AZURE_COLUMNS):
            columns, given = ",".join(_AZURE_COLUMNS), text[:_MAX_SHOWN]
            raise _unreadable(path, number, f"{given!r} has {len(row)} of the 3 columns {columns}" if row else _EMPTY)
        lengths = (_whole(path, number, 1, row[1]), _whole(path, number, 2, row[2]))
        yield number, _checked(path, number, _moment_s(path, number, row[0]), *lengths)


def _split(path: str, number: int, text: str) -> list[str]:
    try:
        return next(csv.reader([text]))
    except csv.Error as error:
        raise _unreadable(path, number, f"{text[:_MAX_SHOWN]!r} is not CSV") from error


def _moment_s(path: str, number: int, text: str) -> float:
    try:
        return datetime.datetime.fromisoformat(text[:26]).replace(tzinfo=datetime.UTC).timestamp()
    except ValueError as error:
        shown = text[:_MAX_SHOWN]
        reason = f"{_AZURE_COLUMNS[0]} is {shown!r}; it must be a time such as 2023-11-16 18:17:03.97996"
        raise _unreadable(path, number, reason) from error


def _whole(path: str, number: int, column: int, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        shown = text[:_MAX_SHOWN]
        reason = f"{_AZURE_COLUMNS[column]} is {shown!r}; it must be a whole number"
        raise _unreadable(path, number, reason) from error


def _checked(
    path: str, number: int, arrival_s: float, num_prompt: int, num_output: int, block_ids: tuple[int, ...] = ()
) -> TraceRequest:
    if not math.isfinite(arrival_s):
        raise _unreadable(path, number, f"its time is {arrival_s}")
    if num_prompt < 1 or num_output < 1:
        raise _unreadable(
            path, number, f"it has {num_prompt:,} prompt and {num_output:,} output tokens; both must be at least 1"
        )
    if max(num_prompt, num_output) > _MAX_TOKENS:
        raise _unreadable(
            path, number, f"it has {num_prompt:,} prompt and {num_output:,} output tokens; at most {_MAX_TOKENS:,} each"
        )
    return TraceRequest(arrival_s, num_prompt, num_output, block_ids)


def poisson_arrivals(rate: float, source: random.Random) -> Iterator[float]:
    """Yield times in seconds at which requests come at random, `rate` a second."""
    now_s = 0.0
    while True:
        now_s += source.expovariate(rate)
        yield now_s


def draw_trace(
    *,
    rate: float,
    num_requests: int,
    input_len: str,
    output_len: str,
    prefix_len: int,
    num_prefixes: int,
    seed: int,
    remedy: str = "lower --input-len, --prefix-len or --output-len",
) -> list[TraceRequest]:
    """Draw requests that come at random, `rate` a second. input_len, output_len: distributions, as parse_lengths reads
    them. prefix_len: first tokens that a request shares with about one in `num_prefixes` others, besides input_len.
    remedy: for lengths that are too large. Raises OptionError."""
    source = random.Random(seed)
    inputs, outputs = parse_lengths(input_len, "--input-len"), parse_lengths(output_len, "--output-len")
    arrivals: Iterable[float] = poisson_arrivals(rate, source)
    requests = []
    for _, arrival_s in zip(range(num_requests), arrivals, strict=False):
        prefix = (source.randrange(num_prefixes),) if prefix_len else ()
        num_prompt, num_output = prefix_len + inputs.draw(source), outputs.draw(source)
        if max(num_prompt, num_output) > _MAX_TOKENS:
            raise OptionError(
                f"a request of {num_prompt:,} prompt and {num_output:,} output tokens was drawn; at most "
                f"{_MAX_TOKENS:,} each; {remedy}"
            )
        requests.append(TraceRequest(arrival_s, num_prompt, num_output, prefix, prefix_len or MOONCAKE_BLOCK))
    return requests
