"""examples/python/data_loop.py on a real server: from a recipe to an adapter that is measured before and after."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.commands.child_process import free_port
from tests.helpers.deadline import wait_until
from tests.helpers.model_folders import write_model_folder
from tests.helpers.repository import ROOT
from tests.helpers.server_process import API_KEY, COMMAND, START_TIMEOUT_S, ServerProcess

_NUM_LINES, _NUM_HELD_OUT = 12, 3
_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
# A random model rarely ends a text before it is cut off: texts are fields with a pattern, which ends them.
_TEXT = '{type: string, pattern: "^[a-z]{4,9}$"}'
_ANSWER = f"fields: {{answer: {_TEXT}}}\n    max_tokens: 80"
_RECIPES = {
    "supervised": """
source: {kind: documents, words: 5}
steps:
  - name: ask
    prompt: "{document}"
    fields: {question: TEXT}
    max_tokens: 80
  - name: reply
    prompt: "{question}"
    ANSWER
output: {kind: chat, user: "{question}", assistant: "{answer}"}
quality: []
""",
    "dpo": """
source: {kind: prompts, passes: 3}
steps:
  - name: reply
    prompt: "{prompt}"
    samples: 3
    ANSWER
  - name: judge
    prompt: "{answer}"
    fields: {score: {type: integer, minimum: 1, maximum: 5}}
    max_tokens: 20
output: {kind: preference, user: "{prompt}", assistant: "{answer}", best: score}
quality: []
""",
}
_GRADER = {
    "type": "string_check",
    "name": "letter",
    "operation": "like",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


@pytest.fixture(scope="module")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiny")
    model = write_model_folder(folder / "model")
    arguments = (
        *(str(model), "--served-model-name", "tiny", "--dtype", "float32", "--threads", "1"),
        *("--kv-cache-memory-bytes", "64MiB", "--enable-lora", "--data-dir", str(folder / "data")),
        *("--finetune-yield", "never", "--chat-template", _TEMPLATE),
    )
    with ServerProcess(folder / "log", *arguments) as server:
        server.wait_ready()
        yield server


@pytest.mark.parametrize("method", _RECIPES)
def test_lines_are_made_prepared_trained_on_and_measured(
    tiny_server: ServerProcess, tmp_path: Path, method: str
) -> None:
    options = ("--compare-unprepared",) if method == "supervised" else ()
    shown = _run(tiny_server, tmp_path, "data_loop.py", _RECIPES[method], *options)
    report = json.loads((tmp_path / "loop" / "report.json").read_text())
    made, prepared = ((tmp_path / "loop" / name).read_text().splitlines() for name in ("made.jsonl", "prepared.jsonl"))
    adapters = {"after": len(prepared), **({"unprepared": len(made)} if options else {})}
    assert report["lines"] == adapters
    assert len(prepared) <= len(made) == _NUM_LINES
    assert json.loads((tmp_path / "loop" / "prepared.json").read_text())["num_lines"] == _NUM_LINES
    assert report["before"]["model"] == "tiny"
    assert all(report[name]["model"].startswith(f"ft:tiny:headrace:{name}:") for name in adapters)
    for name in ("before", *adapters):
        rewards = ["e" in answer for answer in report[name]["answers"]]
        assert report[name]["rewards"] == rewards
        assert report[name]["mean"] == pytest.approx(sum(rewards) / _NUM_HELD_OUT)
        assert f"{name} " in shown
    difference = report["after"]["mean"] - report["before"]["mean"]
    assert report["after"]["gain"]["mean"] == pytest.approx(difference)
    assert f": {method} on loop/prepared.jsonl" in shown


def test_self_play_continues_after_a_kill_and_stops_when_the_share_of_won_prompts_no_longer_rises(
    tiny_server: ServerProcess, tmp_path: Path
) -> None:
    recipe = _RECIPES["dpo"].replace("- name: judge", '- name: judge\n    models: ["{judge}"]')
    recipe = recipe.replace("samples: 3", 'samples: 4\n    models: ["", "{opponent}"]')
    given = (tiny_server, tmp_path, "self_play.py", f"variables: {{opponent: '', judge: ''}}{recipe}", "--rounds", "2")
    with tiny_server.client() as client:

        def jobs() -> list[str]:
            return [each["id"] for each in client.get("/v1/fine_tuning/jobs?limit=100").json()["data"]]

        before = jobs()
        with _started(*given) as process:
            wait_until(lambda: jobs() != before or process.poll() is not None, "a job was made", START_TIMEOUT_S)
            process.kill()
        made = (tmp_path / "loop" / "round-1-made.jsonl.journal").read_bytes()
        num_jobs = len(jobs())
        _run(*given)
        assert (tmp_path / "loop" / "round-1-made.jsonl.journal").read_bytes() == made
        report = json.loads((tmp_path / "loop" / "report.json").read_text())
        num_rounds = len(report["rounds"])
        assert len(jobs()) == len(before) + num_rounds
        assert num_jobs == len(before) + 1
        answered = tiny_server.metric("headrace_generation_tokens_total")
        _run(*given)
        assert len(jobs()) == len(before) + num_rounds
        assert tiny_server.metric("headrace_generation_tokens_total") == answered
    report = json.loads((tmp_path / "loop" / "report.json").read_text())
    players = ["tiny", *(each["model"] for each in report["rounds"])]
    rates = [0.5, *(each["win_rate"] for each in report["rounds"])]
    assert players[1].startswith("ft:tiny:headrace:round-1:")
    assert [each["player"] for each in report["rounds"]] == players[:-1]
    assert [each["opponent"] for each in report["rounds"]] == ["tiny", *players][: len(rates) - 1]
    rises = [rate > before for before, rate in itertools.pairwise(rates)]
    assert rises in ([True, True], [True, False], [False])  # the first round without a rise is the last one
    assert report["best"] == players[sum(rises)]
    made = (tmp_path / "loop" / "round-1-made.jsonl").read_text().splitlines()
    assert json.loads(made[0])["metadata"]["model"] == "tiny"


@pytest.mark.parametrize("program", ["data_loop.py", "self_play.py"])
def test_a_server_that_is_not_there_is_named(tmp_path: Path, program: str) -> None:
    environment = {**os.environ, "OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1", "NO_PROXY": "127.0.0.1"}
    arguments = ("--recipe", "documents", "--held-out", "no.jsonl", "--grader", "no.json")
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "python" / program), *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"no server answers at {environment['OPENAI_BASE_URL']} (")
    assert "Connection refused); start one with" in result.stderr


def _run(server: ServerProcess, folder: Path, program: str, recipe: str, *options: str) -> str:
    """Run an example in `folder` with a recipe; return what it printed."""
    with _started(server, folder, program, recipe, *options) as process:
        shown, errors = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 0, f"{shown}\n{errors}\n{server.log}"
    return shown


def _started(server: ServerProcess, folder: Path, program: str, recipe: str, *options: str) -> subprocess.Popen[str]:
    (folder / "recipe.yaml").write_text(recipe.replace("ANSWER", _ANSWER).replace("TEXT", _TEXT))
    (folder / "in.txt").write_text("\n\n".join(f"Part {number} is about it." for number in range(_NUM_LINES)))
    held_out = [
        {"messages": [{"role": "user", "content": f"Held\u2028out {n}?"}, {"role": "assistant", "content": "e"}]}
        for n in range(_NUM_HELD_OUT)
    ]
    (folder / "held-out.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in held_out))
    (folder / "grader.json").write_text(json.dumps(_GRADER))
    arguments = (
        *("--recipe", "recipe.yaml", "--input", "in.txt", "--lines", str(_NUM_LINES), "--folder", "loop"),
        *("--held-out", "held-out.jsonl", "--grader", "grader.json", "--max-tokens", "8", *options),
        *("--hyperparameters", json.dumps({"n_epochs": 1, "lora_rank": 2, "replay": 0})),
        *("--", "--quality", "--dedup", "exact"),
    )
    environment = {
        **os.environ,
        "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}",
        "OPENAI_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": API_KEY,
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "python" / program), *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
