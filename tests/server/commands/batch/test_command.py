"""`headrace batch` as far as no engine is needed: what it refuses, and how lines are answered."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.child_processes.log_format import FORM_VARIABLE
from engine.client.open_streams import MAX_DEATHS
from engine.errors import EngineDied, OptionError, StartupError
from engine.protocol import EngineRequest
from server.commands.batch.answering import LineCounts, LineRunner
from server.commands.batch.command import run
from server.commands.batch.input_file import InputFile
from tests.helpers.fake_client import FakeClient, Step, make_app, says

pytestmark = pytest.mark.fast

URL = "/v1/completions"
DEADLINE_S = 20


@pytest.fixture
def requests(tmp_path: Path) -> Callable[..., str]:
    def write(*bodies: dict[str, Any]) -> str:
        lines = [{"custom_id": str(n), "method": "POST", "url": URL, "body": body} for n, body in enumerate(bodies)]
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    return write


async def answered(path: str, client: FakeClient, written: list[tuple[bytes, bool]]) -> LineCounts:
    file = InputFile(path, [URL], max_line_bytes=10_000)
    context = make_app(client).state.context
    answering = LineRunner(
        context, file, lambda line, is_completed: written.append((line, is_completed)), lambda _: None
    )
    async with asyncio.timeout(DEADLINE_S):
        return await answering.run(file.lines)


async def test_each_line_is_answered_once(requests: Callable[..., str]) -> None:
    written: list[tuple[bytes, bool]] = []
    path = requests(*({"prompt": str(n)} for n in range(50)), {"prompt": "x", "max_tokens": -1})
    outcome = await answered(path, FakeClient(says("Because.")), written)
    assert (outcome.completed, outcome.failed) == (50, 1)
    assert sorted(json.loads(line)["custom_id"] for line, _ in written) == sorted(map(str, range(51)))
    assert [json.loads(line)["custom_id"] for line, is_completed in written if not is_completed] == ["50"]
    assert outcome.usage.output_tokens == 50 * len("Because.")


async def test_a_line_that_engines_die_of_has_an_error_and_the_others_their_answers(
    requests: Callable[..., str],
) -> None:
    def script(request: EngineRequest) -> list[Step]:
        is_poison = bytes(each for each in request.prompt_ids if each < 256) == b"poison"
        return [EngineDied("the engine ended", num_deaths=MAX_DEATHS)] if is_poison else says("Because.")(request)

    written: list[tuple[bytes, bool]] = []
    client = FakeClient(script)
    outcome = await answered(requests({"prompt": "a"}, {"prompt": "poison"}, {"prompt": "b"}), client, written)
    assert (outcome.completed, outcome.failed) == (2, 1)
    (error,) = [json.loads(line) for line, is_completed in written if not is_completed]
    assert (error["custom_id"], error["response"]["status_code"]) == ("1", 503)
    assert len(client.requests) == 3


async def test_what_cannot_be_written_ends_the_run(requests: Callable[..., str]) -> None:
    file = InputFile(requests(*[{"prompt": "a"}] * 30), [URL], max_line_bytes=10_000)
    client = FakeClient(says("Because."))

    def full(*_: object) -> None:
        raise StartupError("the disk is full")

    with pytest.raises(StartupError, match="full"):
        await LineRunner(make_app(client).state.context, file, full, lambda _: None).run(file.lines)
    assert client.num_open == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no INPUT given"),
        (["in"], "no OUTPUT given"),
        (["in", "out"], "no model given"),
        (["in", "out", "-i", "other", "--model", "m"], "INPUT is given twice: in and -i other"),
        (["in", "out", "--model", "m", "--prot", "3"], "unknown option --prot"),
        (["in", "out", "more", "--model", "m"], "unexpected argument more"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_MODEL", raising=False)
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    with pytest.raises(OptionError, match=told):
        run(arguments)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail rather than start one; and leave the log as it is."""
    monkeypatch.setattr("server.commands.alone.OneEngine", None)
    monkeypatch.setattr("server.commands.batch.command.configure_logging", lambda *_: None)
    monkeypatch.setenv(FORM_VARIABLE, "text")  # which it sets


@pytest.mark.usefixtures("no_engine")
def test_lines_for_several_models_are_refused(requests: Callable[..., str], tmp_path: Path) -> None:
    path = requests({"model": "a"}, {"model": "b"}, {"model": "b"})
    with pytest.raises(StartupError, match=r"2 models: b \(2 lines\), a \(1 line\)"):
        run([path, str(tmp_path / "out"), "--model", "m"])


@pytest.mark.usefixtures("no_engine")
def test_the_input_is_not_written_to(requests: Callable[..., str]) -> None:
    path = requests({"model": "a"})
    before = Path(path).read_bytes()
    with pytest.raises(StartupError, match="is the input"):
        run([path, path, "--model", "m"])
    assert Path(path).read_bytes() == before


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("link", [False, True])
def test_the_errors_are_not_the_output(requests: Callable[..., str], tmp_path: Path, link: bool) -> None:
    output = errors = tmp_path / "out"
    if link:
        errors = tmp_path / "link"
        errors.symlink_to(output)
    with pytest.raises(StartupError, match=r"--errors .* is also OUTPUT"):
        run([requests({"model": "a"}), str(output), "--errors", str(errors), "--model", "m"])


@pytest.mark.usefixtures("no_engine")
def test_the_output_of_other_requests_is_refused(requests: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out").write_text('{"custom_id": "other", "response": {"status_code": 200}}\n')
    with pytest.raises(StartupError, match=r"answers to 1 line not in .*, such as 'other'"):
        run([requests({"model": "a"}), str(tmp_path / "out"), "--model", "m"])


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize(("status", "code"), [(200, 0), (400, 3)])
def test_nothing_is_started_where_all_is_answered(
    requests: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    code: int,
) -> None:
    (tmp_path / "out").write_text(f'{{"custom_id": "0", "response": {{"status_code": {status}}}}}\n')
    assert run([requests({"model": "a"}), str(tmp_path / "out"), "--model", "m"]) == code
    assert "already has all answers: 1 line" in capsys.readouterr().err
