"""`headrace data prepare` with scores by a model: bounds, order, and what cannot be scored."""

import json
import re
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from engine.errors import OptionError, StartupError
from engine.protocol import EngineRequest, FinishReason, RequestOutput, TokenLogprobs
from server.commands.alone import Interrupted
from server.commands.data import scoring, tokens, training_time
from server.commands.data.command import run
from server.context import ServerContext
from server.data.report import NumberSpread
from tests.helpers.data_lines import JUDGE, encoded
from tests.helpers.fake_client import FakeClient, Step, engine_info, make_app, pooling_client

pytest.importorskip("rensa", reason="the extra 'data' is not installed")
pytestmark = pytest.mark.fast


def predicts(request: EngineRequest) -> list[Step]:
    """A model that expects a letter by its place in the alphabet, and twice as much after a question mark."""
    factor, scores = 2, [None]
    for before, token in zip(request.prompt_ids, request.prompt_ids[1:], strict=False):
        factor = 1 if before == ord("?") else factor
        scores.append(TokenLogprobs(token, -factor * (token % 32) / 10, [], 1))
    return [RequestOutput(id=request.id, prompt_logprobs=scores, finish_reason=FinishReason.LENGTH)]


def letter_lines() -> bytes:
    """Ten lines: the answers "aaaa" to "jjjj"."""
    return encoded(*({"prompt": f"{letter}?", "completion": 4 * letter} for letter in "jdbacefghi"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the lines. The engine of the command is a fake."""
    use_engine(lambda: FakeClient(predicts, engine_info(max_model_len=100)), monkeypatch)
    monkeypatch.setattr(tokens, "count_tokens", lambda *_: (NumberSpread(), 0))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(letter_lines())
    return tmp_path


def use_engine(client: Callable[[], FakeClient], monkeypatch: pytest.MonkeyPatch, name: str = "tiny") -> None:
    """Let the command have a fake in place of an engine of its own. name: of its model."""

    async def run_alone(*arguments: Any, remedy: str) -> Any:
        assert remedy
        work: Callable[[ServerContext], Coroutine[Any, Any, Any]] = arguments[-1]
        return await work(make_app(client(), served_model_name=(name,)).state.context)

    monkeypatch.setattr(scoring, "run_alone", run_alone)
    monkeypatch.setattr(tokens, "describe_local_model", lambda *_: None)
    monkeypatch.setattr(training_time, "expected_training_time", lambda *_: None)


def _kept(folder: Path, options: str) -> str:
    """Return the letters of the lines that are kept, in their order."""
    command = "prepare in.jsonl --out out.jsonl --model m --report report.json --max-removed 0.9 --quality"
    assert run([*command.split(), *options.split()]) == 0
    return "".join(json.loads(line)["completion"][0] for line in (folder / "out.jsonl").read_text().splitlines())


def _removed(folder: Path) -> dict[str, tuple[int, int, str]]:
    report = json.loads((folder / "report.json").read_text())
    return {
        name: (each["num"], each["num_judged"], each["examples"][0]["detail"])
        for name, each in report["removed"].items()
    }


def test_lines_of_too_much_perplexity_are_removed_by_number_or_percentile(folder: Path) -> None:
    assert _kept(folder, "--max-perplexity p80") == "dbacefgh"
    # "jjjj" and the token of the end: (4 * 1.0 + 258 % 32 / 10) / 5.
    assert _removed(folder) == {"perplexity": (2, 10, "perplexity 2.3164; at most 1.9739 (p80)")}
    report = json.loads((folder / "report.json").read_text())
    assert report["scores"]["perplexity"]["num"] == 10
    assert report["options"]["max_perplexity"] == "p80"
    assert run(["report", "report.json"]) == 0

    assert _kept(folder, "--max-perplexity 1.5") == "dbac"


def test_difficulty_of_an_instruction_is_the_loss_with_it_by_that_without(folder: Path) -> None:
    pairs = {"Which?": "easy", "No sign.": "hard", "Sign?": "known"}
    lines = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs.items()]
    (folder / "in.jsonl").write_bytes(encoded(*lines))
    assert _kept(folder, "--min-ifd 0.6") == "h"
    assert _removed(folder) == {"ifd_low": (2, 3, "ifd 0.5; at least 0.6")}
    assert _kept(folder, "--max-ifd 0.9") == "ek"
    assert _removed(folder) == {"ifd_high": (1, 3, "ifd 1; at most 0.9")}


def test_plain_text_has_a_perplexity_alone(folder: Path) -> None:
    (folder / "in.jsonl").write_bytes(encoded({"text": "aaaaaa"}, {"text": "zzzzzz"}, {"text": "bbbb"}))
    command = "prepare in.jsonl --out out.jsonl --quality --model m --max-perplexity p60 --max-ifd 0.1"
    assert run(command.split()) == 0
    assert [json.loads(line)["text"] for line in (folder / "out.jsonl").read_text().splitlines()] == ["aaaaaa", "bbbb"]


def test_lines_can_be_ordered_by_difficulty_and_the_same_command_gives_the_same_bytes(folder: Path) -> None:
    assert _kept(folder, "--order difficulty") == "abcdefghij"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    _kept(folder, "--order difficulty")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_too_many_removed_lines_fail_and_lines_that_a_job_refuses_are_named(folder: Path) -> None:
    with pytest.raises(StartupError, match=r"8 of 10 lines .* \(perplexity 8\); at most 50% may be \(--max-removed\)"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--quality", "--model", "m", "--max-perplexity", "p20"])
    (folder / "in.jsonl").write_bytes(encoded({"prompt": "x" * 200, "completion": "y"}))
    with pytest.raises(StartupError, match=r"line 1: it has 20. tokens, and the text to learn starts after 100"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--quality", "--model", "m", "--max-perplexity", "p20"])
    assert not (folder / "out.jsonl").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max-perplexity p95", "--max-perplexity needs --model, the model that scores the lines"),
        ("--order difficulty", "--order difficulty needs --model"),
        ("--model m --min-ifd p100", "--min-ifd is 'p100'; it must be a number above 0, or a percentile such as p95"),
        ("--model m --max-ifd much", "--max-ifd is 'much'; it must be"),
        ("--model m --max-perplexity 0.9", "--max-perplexity is 0.9; a perplexity is at least 1"),
        ("--model m --min-ifd 2 --max-ifd 1", "--min-ifd is 2, not below --max-ifd, 1, so no line is between them"),
        ("--model m --min-ifd p90 --max-ifd p10", "--min-ifd is p90, not below --max-ifd, p10"),
    ],
)
def test_wrong_bounds_are_refused(options: str, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", *options.split()])


@pytest.mark.usefixtures("folder")
def test_an_interrupted_scoring_says_that_nothing_was_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupted(*_: Any, **__: Any) -> Any:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(scoring, "run_alone", interrupted)
    with pytest.raises(SystemExit, match="130"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--model", "m", "--quality", "--max-perplexity", "p20"])
    assert capsys.readouterr().err.endswith("interrupted; nothing was written\n")


@pytest.mark.usefixtures("folder")
def test_a_model_that_generates_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use_engine(pooling_client, monkeypatch)
    with pytest.raises(StartupError, match="pools texts; --model must generate text to score lines"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--model", "m", "--quality", "--max-perplexity", "p20"])


_CHECK = {"type": "string_check", "name": "rhymes", "operation": "like", "input": "{{sample.output_text}}"}


def test_a_judge_without_a_model_needs_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "run_alone", None)
    lines = [
        {"prompt": "a", "completion": "ab"},
        {"prompt": "b", "completion": "a"},
        {"prompt": "c", "completion": "c"},
    ]
    (folder / "in.jsonl").write_bytes(encoded(*lines))
    (folder / "judge.json").write_text(json.dumps({**_CHECK, "reference": "{{item.question}}"}))
    command = "prepare in.jsonl --out out.jsonl --quality --judge judge.json --min-score 0.5 --report report.json"
    assert run(command.split()) == 0
    assert _removed(folder) == {"judge": (1, 3, "score 0; at least 0.5")}
    assert json.loads((folder / "report.json").read_text())["scores"]["judge"]["num"] == 3


def test_a_model_judges_the_lines_that_its_perplexity_leaves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def scored(request: EngineRequest) -> list[Step]:
        if request.sampling.prompt_logprobs is not None:
            return predicts(request)
        prompt = bytes(each for each in request.prompt_ids if each < 256).decode()
        asked.append(prompt)
        score = b"1" if "aa" in prompt else b"7" if "bb" in prompt else b"8"
        return [RequestOutput(id=request.id, new_ids=list(score), finish_reason=FinishReason.STOP)]

    use_engine(lambda: FakeClient(scored, engine_info(max_model_len=200)), monkeypatch)
    (folder / "judge.json").write_text(json.dumps(JUDGE))
    assert _kept(folder, "--max-perplexity p30 --judge judge.json --min-score 5") == "bc"
    assert len(asked) == 3
    assert _removed(folder)["judge"] == (1, 3, "score 1; at least 5")
    with pytest.raises(StartupError, match=r"10 of 10 lines were removed \(perplexity 7, judge 3\)"):
        _kept(folder, "--max-perplexity p30 --judge judge.json --min-score 9")
    with pytest.raises(OptionError, match=r"--min-score is 9.5; --judge judge.json scores from 0 to 9, so no line"):
        _kept(folder, "--judge judge.json --min-score 9.5")
    with pytest.raises(OptionError, match=r"asks tiny; name with --model the model"):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", "--judge", "judge.json", "--min-score", "1"])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "{}",
            "--judge judge.json",
            "--judge, a file with a grader, and --min-score, its least score, need",
        ),
        ("{}", "--min-score 1", "need each other"),
        ("{}", "--judge judge.json --min-score nan", "--min-score is nan"),
        ("[]", "--judge judge.json --min-score 1", "--judge judge.json: Expected `object`"),
        ('{"type": "magic"}', "--judge judge.json --min-score 1", "--judge judge.json: the grader"),
        (
            json.dumps(JUDGE),
            "--model m --judge judge.json --min-score -1",
            "--min-score is -1; --judge judge.json scores from 0 to 9, so each line would pass; give one of these",
        ),
        (
            json.dumps({**_CHECK, "reference": "x"}),
            "--judge judge.json --min-score 1.5",
            "--min-score is 1.5; --judge judge.json scores from 0 to 1, so no line would pass",
        ),
        ("{}", "--judge no.json --min-score 1", "cannot read no.json: No such file"),
    ],
)
def test_wrong_judges_are_refused(folder: Path, content: str, options: str, message: str) -> None:
    (folder / "judge.json").write_text(content)
    with pytest.raises(OptionError, match=re.escape(message)):
        run(["prepare", "in.jsonl", "--out", "out.jsonl", *options.split()])
