"""Traces: the two formats, what is wrong with a line, and loads that are drawn."""

import json
from pathlib import Path

import pytest

from engine.errors import OptionError
from engine.simulation.trace import TraceRequest, draw_trace, read_trace

pytestmark = pytest.mark.fast

MOONCAKE = {"timestamp": 2000, "input_length": 600, "output_length": 5, "hash_ids": [7, 8]}
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"


def written(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "trace"
    path.write_text("\n".join(lines))
    return str(path)


def mooncake(**changed: object) -> str:
    return json.dumps(MOONCAKE | changed)


def test_a_line_of_mooncake_is_a_request_with_blocks(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake(), mooncake(timestamp=2500, hash_ids=[7, 9]))
    assert read_trace(path) == [TraceRequest(0.0, 600, 5, (7, 8)), TraceRequest(0.5, 600, 5, (7, 9))]


def test_equal_blocks_are_equal_tokens_and_the_rest_is_the_request_s_own() -> None:
    first, second = TraceRequest(0.0, 600, 5, (7, 8)).prompt(-1), TraceRequest(0.0, 600, 5, (7,)).prompt(-2)
    assert len(first) == len(second) == 600
    assert first[:512] == second[:512] == [7] * 512
    assert (first[512:], second[512:]) == ([8] * 88, [-2] * 88)


def test_a_line_of_azure_is_a_request_without_blocks(tmp_path: Path) -> None:
    path = written(tmp_path, AZURE, "2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:04.0319600,3180,8")
    first, second = read_trace(path)
    assert (first.arrival_s, first.num_prompt, first.num_output) == (0.0, 4808, 10)
    assert second.arrival_s == pytest.approx(0.052)


def test_a_trace_comes_faster_by_a_factor_and_ends_at_a_limit(tmp_path: Path) -> None:
    path = written(tmp_path, *(mooncake(timestamp=1000 * number) for number in range(5)))
    assert [each.arrival_s for each in read_trace(path, rate_factor=4.0, limit=3)] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "'{' is not a whole JSON object; it must have timestamp, input_length, output_length, hash_ids"),
        ("[1]", "is not a whole JSON object"),
        (" ", "it is empty; remove it"),
        ('{"timestamp": "x", ' + mooncake()[1:], "a field is given twice"),
        (mooncake(timestamp="now"), "timestamp is 'now'; it must be a number of milliseconds"),
        (mooncake(input_length="many"), "input_length is 'many'; it must be a whole number"),
        (mooncake(hash_ids=[7, None]), r"hash_ids is \[7, None\]; it must be a list of whole numbers"),
        (json.dumps({"timestamp": 1}), "it has no input_length"),
        (mooncake(output_length=5_000_000_000), "5,000,000,000 output tokens; at most 16,777,216 each"),
        (mooncake(input_length=1025), r"its hash_ids are 1,024 tokens, and input_length is 1,025"),
        (mooncake(hash_ids=[7, -1]), "-1 in hash_ids is negative"),
        (mooncake(hash_ids=[7, 2**63]), "9223372036854775808 in hash_ids is above 9223372036854775807"),
        (mooncake(output_length=0), "0 output tokens; both must be at least 1"),
        (mooncake(timestamp=1999), "it comes before the request of the line above"),
    ],
)
def test_an_unreadable_line_is_named_with_what_is_wrong(tmp_path: Path, bad: str, reason: str) -> None:
    with pytest.raises(OptionError, match=rf"line 2 of the trace .*: .*{reason}"):
        read_trace(written(tmp_path, mooncake(), bad))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("2023-11-16 18:17:03.9,x,10", "ContextTokens is 'x'; it must be a whole number"),
        ("2023-11-16 18:17:03.9,10,", "GeneratedTokens is ''; it must be a whole number"),
        ("yesterday,1,1", "TIMESTAMP is 'yesterday'; it must be a time such as"),
        ("2023-11-16 18:17:03.9,1", "has 2 of the 3 columns TIMESTAMP,ContextTokens"),
        ("", "it is empty; remove it"),
        ("x" * 200_000, "is not CSV"),
    ],
)
def test_an_unreadable_row_is_named_with_what_is_wrong(tmp_path: Path, bad: str, reason: str) -> None:
    with pytest.raises(OptionError, match=f"line 3 of the trace .*: .*{reason}"):
        read_trace(written(tmp_path, AZURE, "2023-11-16 18:17:03.9799600,4808,10", bad, "next"))


@pytest.mark.parametrize("lines", [(AZURE, "2023-11-16 18:17:03.9799600,600,5"), (mooncake(),)])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, lines: tuple[str, ...]) -> None:
    path = Path(written(tmp_path, *lines))
    expected = read_trace(str(path))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_trace(str(path)) == expected


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "is empty"),
        (["", AZURE], "line 1 .* is empty"),
        ([AZURE], "has no requests"),
        (["a,b", "1,2"], "it must be TIMESTAMP,ContextTokens"),
    ],
)
def test_a_file_without_requests_is_refused(tmp_path: Path, lines: list[str], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        read_trace(written(tmp_path, *lines))


def test_a_trace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No such file"):
        read_trace(str(tmp_path / "none"))


def test_a_drawn_load_repeats_by_its_seed_and_shares_prefixes() -> None:
    def drawn(seed: int) -> list[TraceRequest]:
        return draw_trace(
            rate=2.0,
            num_requests=400,
            input_len="10:20",
            output_len="5",
            prefix_len=64,
            num_prefixes=3,
            seed=seed,
        )

    load = drawn(1)
    assert load == drawn(1)
    assert load != drawn(2)
    assert {each.block_ids for each in load} == {(0,), (1,), (2,)}
    assert all(74 <= each.num_prompt <= 84 and each.num_output == 5 for each in load)
    assert load[-1].arrival_s == pytest.approx(200, rel=0.2)
    assert load[0].prompt(-1)[:64] == [load[0].block_ids[0]] * 64


def test_a_drawn_request_too_long_for_memory_is_refused() -> None:
    with pytest.raises(
        OptionError, match=r"5,000,000,001 prompt and 1 output tokens was drawn; at most 16,777,216 each"
    ):
        draw_trace(
            rate=1.0, num_requests=1, input_len="1", output_len="1", prefix_len=5 * 10**9, num_prefixes=1, seed=0
        )
