"""The files of `headrace batch`: lines that are not requests are reported before anything runs, and a run resumes from
any cut."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import StartupError
from server.batches.answers import answer_line, error_line
from server.commands.batch.input_file import InputFile
from server.commands.batch.output_file import OutputFile
from server.jobs.answers import BodyAnswer

pytestmark = pytest.mark.fast

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def line(custom_id: str, url: str = CHAT, **fields: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "m"}, **fields}


def written(path: Path, *lines: object) -> str:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    return str(path)


def opened(path: str, max_line_bytes: int = 10_000) -> InputFile:
    return InputFile(path, [CHAT, COMPLETION], max_line_bytes=max_line_bytes)


def test_lines_of_one_file_may_be_for_several_endpoints(tmp_path: Path) -> None:
    file = opened(written(tmp_path / "in", line("a"), "", line("ü", COMPLETION, body={"prompt": "x"}), "   "))
    assert [(each.number, each.custom_id, each.endpoint) for each in file.lines] == [
        (1, "a", CHAT),
        (3, "ü", COMPLETION),
    ]
    assert [file.body(each) for each in file.lines] == [{"model": "m"}, {"prompt": "x"}]
    assert file.models == {"m": 1}


def test_lines_whose_prompts_begin_alike_can_be_put_together(tmp_path: Path) -> None:
    prompts = ["one x", "two x", "one y", "two y"]
    lines = [line(str(n), COMPLETION, body={"prompt": prompt}) for n, prompt in enumerate(prompts)]
    file = opened(written(tmp_path / "in", *lines))
    assert [each.custom_id for each in sorted(file.lines, key=lambda each: each.prefix)] == ["0", "2", "1", "3"]


def test_a_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_text(json.dumps(line("a")))
    assert [each.custom_id for each in opened(str(path)).lines] == ["a"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("{", "line 2: this line is not valid JSON"),
        ("[1]", "line 2: this line is"),
        (line("b", url="/v1/audio"), "line 2: url is '/v1/audio'; it must be one of /v1/chat/completions"),
        (line("b", url=3), "line 2: url is 3"),
        (line("b", method="GET"), "line 2: method is 'GET'"),
        (line("a"), "line 2: custom_id 'a' is also that of line 1"),
        (line("b", body={"x": "y" * 500}), "line 2 has 5"),
        ({"custom_id": "b", "method": "POST", "body": {}}, "line 2: url is missing"),
        (line("b", body={"stream": True}), "line 2: stream is true"),
    ],
)
def test_a_line_that_is_no_request_is_told_with_its_number(tmp_path: Path, wrong: object, told: str) -> None:
    path = written(tmp_path / "in", line("a"), wrong)
    with pytest.raises(StartupError) as raised:
        opened(path, max_line_bytes=400)
    assert "nothing was run" in str(raised.value)
    assert told in str(raised.value)


def test_of_many_faults_some_are_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"line 5: .*\n  and 3 more"):
        opened(written(tmp_path / "in", *["{"] * 8))


@pytest.mark.parametrize("content", [[], ["", " "]])
def test_a_file_without_requests_is_told(tmp_path: Path, content: list[str]) -> None:
    with pytest.raises(StartupError, match="has no requests"):
        opened(written(tmp_path / "in", *content))


def test_a_file_that_is_changed_meanwhile_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "in", line("a"), line("b"))
    file = opened(path)
    written(tmp_path / "in", line("c"), line("b"))
    assert file.body(file.lines[1]) == {"model": "m"}
    with pytest.raises(StartupError, match="was changed at line 1"):
        file.body(file.lines[0])


def test_a_pipe_is_no_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in")
    with pytest.raises(StartupError, match=r"in is not a regular file.*write them to one"):
        opened(str(tmp_path / "in"))


def test_a_file_that_can_no_longer_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = opened(written(tmp_path / "in", line("a")))

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(StartupError, match=r"cannot read .*: Input/output error"):
        file.body(file.lines[0])


ANSWERS = [
    answer_line("a", BodyAnswer("req_1", 200, b'{"text":"one\\nline"}')),
    answer_line("bé", BodyAnswer("req_2", 400, b'{"error":{}}')),
    error_line("c", "code", "message"),
]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True)
@given(cut=st.integers(0, sum(map(len, ANSWERS))))
def test_a_run_that_is_cut_off_anywhere_goes_on_with_what_is_not_whole(folder: Path, cut: int) -> None:
    path = folder / "out"
    path.write_bytes(b"".join(ANSWERS)[:cut])
    first = OutputFile(str(path))
    names = [each.custom_id for each in first.recover()]
    assert names == ["a", "bé", "c"][: len(names)]
    for answer in ANSWERS[len(names) :]:
        first.add(answer)
    first.close()
    assert path.read_bytes() == b"".join(ANSWERS)
    second = OutputFile(str(path))
    assert [(each.custom_id, each.is_completed) for each in second.recover()] == [
        ("a", True),
        ("bé", False),
        ("c", False),
    ]
    second.close()


@pytest.mark.parametrize("can_truncate", [True, False])
def test_a_line_that_the_disk_takes_half_of_is_followed_by_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_truncate: bool
) -> None:
    path = tmp_path / "out"
    file = OutputFile(str(path))
    file.recover()
    file.add(ANSWERS[0])
    write, left = os.write, [10]

    def full(fd: int, data: bytes) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: left.pop()])

    def refused(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patches:
        patches.setattr(os, "write", full)
        if not can_truncate:
            patches.setattr(os, "ftruncate", refused)
        with pytest.raises(StartupError, match="No space left on device; free some space"):
            file.add(ANSWERS[1])
    with pytest.raises(StartupError, match="No space left on device"):
        file.add(ANSWERS[2])
    file.close()
    assert path.read_bytes() == ANSWERS[0] + (b"" if can_truncate else ANSWERS[1][:10])
    again = OutputFile(str(path))
    assert [each.custom_id for each in again.recover()] == ["a"]
    again.add(ANSWERS[1])
    again.close()
    assert path.read_bytes() == ANSWERS[0] + ANSWERS[1]


def test_a_file_of_something_else_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text('{"custom_id": "a"}\nnotes\nmore')
    with pytest.raises(StartupError, match="line 2 is not an answer of a batch"):
        OutputFile(str(path)).recover()
    assert path.read_text() == '{"custom_id": "a"}\nnotes\nmore'


def test_two_commands_do_not_write_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "out")
    first = OutputFile(path)
    with pytest.raises(StartupError, match="another command is writing"):
        OutputFile(path)
    first.close()
    OutputFile(path).close()


@pytest.mark.parametrize("path", ["/dev/null", "/nowhere/out"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(StartupError, match=path):
        OutputFile(path)
