"""examples/python/data_loop.py on a real server: from a recipe to an adapter that is measured before and after."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.model_folders import write_model_folder
from tests.helpers.repository import ROOT
from tests.helpers.server_process import API_KEY, COMMAND, START_TIMEOUT_S, ServerProcess

_NUM_LINES, _NUM_HELD_OUT = 12, 3
_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
# Texts are fields, since a random model rarely ends a text of its own before it is cut off.
_RECIPES = {
    "supervised": """
source: {kind: documents, words: 5}
steps:
  - name: ask
    prompt: "{document}"
    fields: {question: {type: string, minLength: 4, maxLength: 9}}
    max_tokens: 80
  - name: reply
    prompt: "{question}"
    fields: {answer: {type: string, minLength: 4, maxLength: 9}}
    max_tokens: 80
output: {kind: chat, user: "{question}", assistant: "{answer}"}
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
    (tmp_path / "recipe.yaml").write_text(_RECIPES[method])
    (tmp_path / "in.txt").write_text("\n\n".join(f"Part {number} is about it." for number in range(_NUM_LINES)))
    held_out = [
        {"messages": [{"role": "user", "content": f"Held out {n}?"}, {"role": "assistant", "content": "e"}]}
        for n in range(_NUM_HELD_OUT)
    ]
    (tmp_path / "held-out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held_out))
    (tmp_path / "grader.json").write_text(json.dumps(_GRADER))
    shown = _run_loop(
        tiny_server,
        tmp_path,
        *("--recipe", "recipe.yaml", "--input", "in.txt", "--lines", str(_NUM_LINES), "--folder", "loop"),
        *("--held-out", "held-out.jsonl", "--grader", "grader.json", "--max-tokens", "8", "--compare-unprepared"),
        *("--hyperparameters", json.dumps({"n_epochs": 1, "lora_rank": 2, "replay": 0})),
        *("--", "--quality", "--dedup", "exact"),
    )
    report = json.loads((tmp_path / "loop" / "report.json").read_text())
    made, prepared = ((tmp_path / "loop" / name).read_text().splitlines() for name in ("made.jsonl", "prepared.jsonl"))
    assert report["lines"] == {"after": len(prepared), "unprepared": len(made)}
    assert len(prepared) <= len(made) == _NUM_LINES
    assert json.loads((tmp_path / "loop" / "prepared.json").read_text())["num_lines"] == _NUM_LINES
    assert report["before"]["model"] == "tiny"
    assert report["after"]["model"].startswith("ft:tiny:headrace:after:")
    assert report["unprepared"]["model"].startswith("ft:tiny:headrace:unprepared:")
    for name in ("before", "after", "unprepared"):
        rewards = ["e" in answer for answer in report[name]["answers"]]
        assert report[name]["rewards"] == rewards
        assert report[name]["mean"] == pytest.approx(sum(rewards) / _NUM_HELD_OUT)
        assert f"{name} " in shown
    differences = report["after"]["mean"] - report["before"]["mean"]
    assert report["after"]["gain"]["mean"] == pytest.approx(differences)


def _run_loop(server: ServerProcess, folder: Path, *arguments: str) -> str:
    """Run the program in `folder`; return what it printed."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "python" / "data_loop.py"), *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{Path(COMMAND).parent}:{os.environ['PATH']}",
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "OPENAI_API_KEY": API_KEY,
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{server.log}"
    return result.stdout
