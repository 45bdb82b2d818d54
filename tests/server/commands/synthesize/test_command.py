"""`headrace synthesize`: its options, what it writes, and its exit codes."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.errors import EngineStopped, OptionError, StartupError
from server.commands.synthesize import answering, command, http_client
from server.commands.synthesize.answering import Store, TeacherAnswerer
from server.commands.synthesize.command import run
from server.commands.synthesize.http_client import SynthesisClient
from server.synthesis.recipe_file import built_in_recipes
from server.synthesis.requests import StepRequest
from tests.helpers.data_lines import chat, encoded, random_text
from tests.helpers.synthesis import RECIPE, SEEDS, completion

pytest.importorskip("rensa", reason="the extra 'data' is not installed")
pytestmark = pytest.mark.fast

TEACHER = ["--teacher-url", "http://teacher/v1", "--model", "wise", "--teacher-may-read", "seeds.txt"]


BOTH = ["mine.yaml", "--out", "a.jsonl", "--input", "seeds.txt", *TEACHER]


class _Teacher:
    """Answers like a model that invents another task each time; refuses the rest when `left` is 0."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.models: Counter[str] = Counter()
        self.left = 10_000

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":  # of a server
            return httpx.Response(200, json={"data": [{"id": name} for name in ("small", "wise")]})
        body = json.loads(request.content)
        if not self.left:
            return httpx.Response(429, headers={"retry-after": "9999"}, json={"error": {"message": "busy"}})
        self.left -= 1
        self.num_asked += 1
        self.models[body["model"]] += 1
        text = random_text(body["seed"], 8 if "response_format" in body else 30)
        return httpx.Response(200, json=completion(json.dumps({"task": text}) if "response_format" in body else text))


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> _Teacher:
    found = _Teacher()
    client = httpx.AsyncClient

    def connected(**given: Any) -> httpx.AsyncClient:
        return client(**{**given, "transport": httpx.MockTransport(found)})

    monkeypatch.setattr(http_client.httpx, "AsyncClient", connected)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "seeds.txt").write_text(SEEDS)
    return tmp_path


def _run(*more: str) -> int:
    return run(["mine.yaml", "--input", "seeds.txt", "--out", "out.jsonl", *TEACHER, *more])


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(built_in_recipes())
    assert run(["--show", "documents"]) == 0
    assert capsys.readouterr().out == built_in_recipes()["documents"].read_text()
    with pytest.raises(OptionError, match="no built-in recipe 'none'; there is documents"):
        run(["--show", "none"])


def test_the_help_of_model_says_when_it_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "to load, or a name of a model of --server or --teacher-url (default: its only one)" in text


def test_a_stopped_run_continues_where_it_was(
    folder: Path, teacher: _Teacher, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher.left = 7
    with pytest.raises(StartupError, match="what is done is stored"):
        _run("--lines", "6", "--wave", "2")
    partial = (folder / "out.jsonl").read_bytes()
    teacher.left = 10_000
    assert _run("--lines", "6", "--wave", "2", "--report", "report.json") == 0
    resumed, num_asked = (folder / "out.jsonl").read_bytes(), teacher.num_asked
    captured = capsys.readouterr()
    assert "has 7 answers, which are not computed again" in captured.err
    assert "\nNOT compared with an evaluation, since none is named: give its files with --against" in captured.out
    assert "written: 6 lines of 6 items; 180 tokens in 5 new answers" in captured.out
    assert resumed.startswith(partial)
    assert partial.count(b"\n") == 2

    assert _run("--lines", "6", "--wave", "2") == 0  # once more computes nothing
    assert teacher.num_asked == num_asked == 12
    (folder / "out.jsonl.journal").unlink()
    (folder / "out.jsonl").unlink()
    assert _run("--lines", "6", "--wave", "2") == 0
    assert (folder / "out.jsonl").read_bytes() == resumed
    assert json.loads((folder / "report.json").read_bytes())["num_kept"] == 6


@pytest.mark.usefixtures("teacher")
def test_a_stopped_engine_leaves_the_lines_that_were_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine(TeacherAnswerer):
        """Answers as the teacher does, until the third wave."""

        def __init__(self, _context: object) -> None:
            super().__init__(SynthesisClient("http://teacher", None, key_source=""), 1)
            self.num_steps = 0

        async def answer(self, requests: Sequence[StepRequest], store: Store) -> None:
            self.num_steps += 1
            if self.num_steps > 4:
                raise EngineStopped("the server is being stopped")
            await super().answer(requests, store)

    async def run_alone(*arguments: Any, remedy: str) -> Any:
        assert remedy
        return await arguments[-1](None)

    monkeypatch.setattr(command, "run_alone", run_alone)
    monkeypatch.setattr(answering, "EngineAnswerer", Engine)
    arguments = ["mine.yaml", "--input", "seeds.txt", "--out", "out.jsonl", "--model", "m", "--lines", "6"]
    with pytest.raises(StartupError, match="the engine was stopped; run the same command to continue"):
        run([*arguments, "--wave", "2"])
    assert (folder / "out.jsonl").read_bytes().count(b"\n") == 4


@pytest.mark.usefixtures("folder")
def test_a_teacher_shares_the_steps_with_a_server(teacher: _Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Any] = []

    class Server(TeacherAnswerer):
        """Answers as the teacher does, in place of batches."""

        def __init__(self, client: SynthesisClient, _run: str) -> None:
            super().__init__(client, 1)

        async def answer(self, requests: Sequence[StepRequest], store: Store) -> None:
            batches.extend(requests)
            await super().answer(requests, store)

    monkeypatch.setattr(answering, "BatchAnswerer", Server)
    options = ["--server", "http://server", "--teacher-steps", "reply", "--teacher-model", "wise", "--lines", "2"]
    assert _run(*options, "--model", "small") == 0
    assert {(request.step, request.body["model"]) for request in batches} == {("invent", "small")}
    assert teacher.models == {"small": 2, "wise": 2}
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["metadata"]["teacher"] for line in lines] == [{"reply": "wise"}] * 2
    assert [(line["metadata"]["model"], line["metadata"]["fingerprint"]) for line in lines] == [("small", "print")] * 2


@pytest.mark.usefixtures("folder", "teacher")
def test_a_teachers_model_is_looked_for_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(*_: object) -> None:
        raise AssertionError(capsys.readouterr().err)

    monkeypatch.setattr(answering, "BatchAnswerer", answers)
    options = ["--server", "http://server", "--model", "small", "--teacher-steps", "reply"]
    with pytest.raises(OptionError, match="http://teacher has 2 models; choose one with --teacher-model: small, wise"):
        _run(*options)
    with pytest.raises(AssertionError, match="http://teacher lists no model tall, so it may refuse the requests"):
        _run(*options, "--teacher-model", "tall")


@pytest.mark.usefixtures("folder")
def test_a_teacher_and_a_server_with_models_of_one_name_do_not_share_answers(
    teacher: _Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "BatchAnswerer", lambda client, _run: TeacherAnswerer(client, 1))
    local = ["mine.yaml", "--input", "seeds.txt", "--out", "out.jsonl", "--lines", "2", "--model", "wise"]
    local += ["--server", "http://server"]
    shared = [*local, *TEACHER[:2], *TEACHER[4:], "--teacher-steps", "reply", "--teacher-model", "wise"]
    asked = []
    for options in (local, shared, [*local[:-2], *TEACHER], local, shared):
        assert run(options) == 0
        asked.append(teacher.num_asked)
    # Both steps; the teacher's one; its other one; then all are in the journal.
    assert asked == [4, 6, 8, 8, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "large"], "--model: http://server has no model large; it has small, wise"),
        (
            ["--model", "small", "--set", "other=tall"],
            "step reply: http://server has no model tall; it has small, wise",
        ),
    ],
)
def test_a_model_that_the_server_lacks_is_refused_before_requests(
    folder: Path, teacher: _Teacher, options: list[str], message: str
) -> None:
    recipe = RECIPE.replace("English}", "English, other: wise}").replace(
        '"{task}"}\noutput', '"{task}", models: ["{other}"]}\noutput'
    )
    (folder / "mine.yaml").write_text(recipe)
    with pytest.raises(OptionError, match=message):
        run(["mine.yaml", "--input", "seeds.txt", "--out", "out.jsonl", "--server", "http://server", *options])
    assert teacher.num_asked == 0


@pytest.mark.usefixtures("teacher")
def test_another_recipe_does_not_replace_the_lines(folder: Path) -> None:
    assert _run("--lines", "2") == 0
    lines = (folder / "out.jsonl").read_bytes()
    (folder / "other.yaml").write_text(RECIPE)
    with pytest.raises(
        OptionError, match=r"out\.jsonl is of recipe mine with --seed 0, and recipe other .* another --out"
    ):
        run(["other.yaml", "--input", "seeds.txt", "--out", "out.jsonl", *TEACHER])
    assert (folder / "out.jsonl").read_bytes() == lines


def test_another_recipe_of_the_same_name_does_not_replace_the_lines(folder: Path, teacher: _Teacher) -> None:
    assert _run("--lines", "2") == 0
    lines = (folder / "out.jsonl").read_bytes()
    (folder / "mine.yaml").write_text(RECIPE.replace('prompt: "{task}"', 'prompt: "Answer: {task}"'))
    with pytest.raises(OptionError, match=r"out\.jsonl is of a recipe that is also named mine .* --recipe-changed"):
        _run("--lines", "2")
    assert (folder / "out.jsonl").read_bytes() == lines
    assert _run("--lines", "2", "--recipe-changed") == 0
    assert teacher.num_asked == 4 + 2  # the first step's answers are used again
    assert _run("--lines", "2") == 0


def test_a_comment_or_another_variable_is_no_other_recipe(folder: Path, teacher: _Teacher) -> None:
    assert _run("--lines", "2") == 0
    (folder / "mine.yaml").write_text(f"# Mine.\nlines: 7\ndescription: Tasks.\n{RECIPE}")
    assert _run("--lines", "2", "--set", "language=Thai") == 0
    assert teacher.num_asked > 4


@pytest.mark.usefixtures("teacher")
def test_a_journal_without_a_digest_is_continued_and_gets_one(folder: Path) -> None:
    assert _run("--lines", "2") == 0
    journal = folder / "out.jsonl.journal"
    first, *others = journal.read_bytes().splitlines(keepends=True)
    run_name = {"recipe": "mine", "seed": 0}
    assert json.loads(first)["run"].keys() == {*run_name, "digest"}
    journal.write_bytes(b"".join([json.dumps({"custom_id": "", "run": run_name}).encode() + b"\n", *others]))
    assert _run("--lines", "2") == 0
    assert journal.read_bytes().count(b'"digest"') == 1
    (folder / "mine.yaml").write_text(RECIPE.replace("check: new", "check: new, threshold: 0.9"))
    with pytest.raises(OptionError, match="has other contents"):
        _run("--lines", "2")


@pytest.mark.usefixtures("teacher")
def test_budgets_and_acceptance_stop_a_run_with_its_own_exit_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("--lines", "6", "--max-tokens", "100") == 3
    assert "stopped: --max-tokens 100 are spent" in capsys.readouterr().err
    (folder / "eval.jsonl").write_bytes(encoded(chat("Q?", "nothing of this")))
    (folder / "mine.yaml").write_text(RECIPE.replace("check: new, field: task", "check: length, field: task, least: 9"))
    assert _run("--against", "eval.jsonl", "--recipe-changed") == 3
    captured = capsys.readouterr()
    assert "stopped: 0 of 32 items became lines, less than --min-acceptance 5%" in captured.err
    assert "task is too short 32" in captured.out
    assert "NOT compared" not in captured.out


@pytest.mark.usefixtures("teacher")
def test_evaluation_files_of_the_recipe_are_compared_with_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--lines", "2", "--report", "report.json") == 0
    assert json.loads((folder / "report.json").read_bytes())["evaluation_files"] == []
    (folder / "held-out.jsonl").write_bytes((folder / "out.jsonl").read_bytes().splitlines()[0])
    (folder / "other.jsonl").write_bytes(encoded(chat("Q?", "nothing of this")))
    (folder / "mine.yaml").write_text(f"{RECIPE}against: [held-out.jsonl]\n")
    capsys.readouterr()
    assert (
        _run("--lines", "2", "--against", "other.jsonl", "--report", "report.json") == 0
    )  # the recipe's digest is the same
    captured = capsys.readouterr()
    assert "contaminated 1" in captured.out
    assert "NOT compared" not in captured.out
    assert json.loads((folder / "report.json").read_bytes())["evaluation_files"] == ["held-out.jsonl", "other.jsonl"]
    with pytest.raises(OptionError, match=r"held-out\.jsonl would be overwritten"):
        _run("--report", "held-out.jsonl")


@pytest.mark.usefixtures("teacher")
@pytest.mark.parametrize(
    ("least", "code", "reason"),
    [(1, 0, "the source has no more items than 3;"), (99, 3, "none of the 3 items became a line: look at the reasons")],
)
def test_the_end_of_the_source_is_an_error_without_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], least: int, code: int, reason: str
) -> None:
    (folder / "mine.yaml").write_text(
        f"""
source: {{kind: prompts}}
steps: [{{name: reply, prompt: "{{prompt}}", checks: [{{check: length, field: reply, least: {least}}}]}}]
output: {{kind: chat, user: "{{prompt}}", assistant: "{{reply}}"}}
"""
    )
    assert _run("--min-acceptance", "0") == code
    assert f"stopped: {reason}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.yaml"], "RECIPE or --out is missing"),
        (["mine.yaml", "--out", "a.txt", "--input", "seeds.txt"], "a.txt is not a .jsonl file"),
        (["mine.yaml", "--out", "a.jsonl", "--input", "a.jsonl"], "a.jsonl would be overwritten"),
        (["mine.yaml", "--out", "no/a.jsonl", "--input", "seeds.txt"], "folder of no/a.jsonl does not exist"),
        (["magpie", "--out", "a.jsonl"], "no model given; name one to load with --model MODEL, or a running"),
        ([*BOTH[:5], *TEACHER[:2], *TEACHER[4:], "--teacher-steps", "reply"], "no model given; .* --server URL$"),
        (["mine.yaml", "--out", "a.jsonl"], "needs files; give --input"),
        (["mine.yaml", "--out", "mine.jsonl", "--input", "seeds.txt"], "mine.jsonl exists and has no journal"),
        (["mine.yaml", "--out", "a.jsonl", "--set", "tone=kind"], "no variable 'tone' to set; there is language"),
        (["mine.yaml", "--out", "a.jsonl", "--set", "tone"], "--set 'tone' must be NAME=VALUE"),
        (["mine.yaml", "--out", "a.jsonl", "--server", "host"], "--server must begin with http"),
        (["mine.yaml", "--out", "a.jsonl", "--server", "http://a", "--teacher-url", "http://b"], "both given"),
        (["mine.yaml", "--out", "a.jsonl", "--teacher-may-read", "a"], "--teacher-may-read needs --teacher-url"),
        (["mine.yaml", "--out", "a.jsonl", "--teacher-steps", "reply"], "--teacher-steps needs --teacher-url"),
        ([*BOTH, "--teacher-model", "wise"], "--teacher-model needs --teacher-steps; without them --model names"),
        ([*BOTH, "--teacher-steps", "judge"], "--teacher-steps has 'judge'; the recipe's steps are invent, reply"),
        ([*BOTH, "--teacher-steps", "reply", "invent"], "has all steps of the recipe; leave it out, and name"),
        (
            ["mine.yaml", "--out", "a.jsonl", "--input", "seeds.txt", *TEACHER[:2], "--teacher-steps", "reply"],
            "text of seeds.txt would be sent to http://teacher/v1; allow it",
        ),
        (["magpie", "--out", "a.jsonl", *TEACHER[:2]], "step question writes the user's message, which needs the chat"),
        (["magpie", "--out", "a.jsonl", *TEACHER[:2], "--teacher-steps", "question"], "step question writes the user"),
        (
            ["magpie", "--out", "a.jsonl", "--input", "seeds.txt"],
            "source is none, so it reads no files; leave seeds.txt",
        ),
        (
            ["mine.yaml", "--out", "a.jsonl", "--input", "seeds.txt", "--teacher-url", "http://b"],
            "text of seeds.txt would be sent to http://b; allow it with --teacher-may-read seeds.txt",
        ),
        (
            ["self-play", "--out", "a.jsonl", "--input", "seeds.txt", "--set", "opponent=other"],
            "step reply is for the model other, and without --server only that of --model is loaded; give --server",
        ),
        (["mine.yaml", "--out", "a.jsonl", "--min-acceptance", "2"], "it must be a number from 0 to 1"),
    ],
)
def test_wrong_options_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    for name in ("HEADRACE_MODEL", "HEADRACE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (folder / "mine.jsonl").touch()
    with pytest.raises(OptionError, match=message):
        run(arguments)


@pytest.mark.usefixtures("folder")
def test_near_duplicates_need_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        OptionError, match=r"^near duplicates are always removed, .* rensa: pip install 'headrace\[data\]'$"
    ):
        _run()
