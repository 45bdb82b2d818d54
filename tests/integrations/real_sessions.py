"""Runs a session of many turns of an agent with a model's real weights, and prints what each turn cost and did:

python -m tests.integrations.real_sessions aider --model qwen2.5-coder-1.5b.gguf

Tests play scripts; this shows what a model makes of it. A turn is one of `session_tasks`, all are one conversation."""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.helpers.server_process import API_KEY, ServerProcess
from tests.integrations.programs import Workplace, npm_program, python_program
from tests.integrations.session_tasks import FILES, TASKS, Task

MODEL = "agent"
_CONTEXT = 32_768
_TURN_TIMEOUT_S = 1800.0
_CHECK_TIMEOUT_S = 30.0
_HEAD = """\
| turn | task | prompt | cached | first token, s | answer | requests | files changed | done |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |"""


class Agent(Protocol):
    """A program that goes on with one conversation."""

    def ask(self, text: str) -> str:
        """What it printed, once the turn is over."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn did. requests: the log's lines of its requests that computed something or were refused."""

    task: Task
    requests: list[dict[str, object]]
    changed: list[str]
    is_done: bool | None

    @property
    def faults(self) -> list[dict[str, object]]:
        return [line for line in self.requests if int(str(line["status"])) >= 400 or line["outcome"] != "completed"]

    def row(self, number: int) -> str:
        """A line of the table: of the turn's first request, and how many there were."""
        first = self.requests[0] if self.requests else {}
        figures = [first.get(name, "") for name in ("prompt_tokens", "cached_tokens", "ttft_s", "output_tokens")]
        done = {True: "yes", False: "no", None: ""}[self.is_done]
        cells = [number, self.task.name, *figures, len(self.requests), ", ".join(self.changed) or "none", done]
        return f"| {' | '.join(map(str, cells))} |"


def run_turn(agent: Agent, server: ServerProcess, workplace: Workplace, task: Task, transcript: Path) -> Turn:
    before, lines_before = _contents(workplace), len(_requests(server.log))
    printed = agent.ask(task.text)
    with transcript.open("a") as file:
        file.write(f"\n##### {task.text}\n{printed}\n")
    after = _contents(workplace)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    is_done = _passes(workplace, task.check) if task.check else None
    return Turn(task, _requests(server.log)[lines_before:], changed, is_done)


def _contents(workplace: Workplace) -> dict[str, str]:
    files = (file for file in workplace.project.rglob("*.py") if ".aider" not in str(file))
    return {str(file.relative_to(workplace.project)): file.read_text() for file in files}


def _requests(log: str) -> list[dict[str, object]]:
    lines = (json.loads(line) for line in log.splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("method") == "POST"]


def _passes(workplace: Workplace, check: str) -> bool:
    """In a copy: what the check leaves behind must not be seen by the agent."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in _contents(workplace).items():
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        command = [sys.executable, "-c", check]
        with contextlib.suppress(subprocess.TimeoutExpired):
            result = subprocess.run(command, cwd=folder, capture_output=True, timeout=_CHECK_TIMEOUT_S, check=False)
            return result.returncode == 0
    return False


class Aider:
    """In one process, as somebody types into it.

    A conversation that is summarized, or stands behind a map of the repository, is computed again in each turn.
    """

    _OPTIONS = (
        *("--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--no-gitignore", "--yes-always"),
        *("--no-fancy-input", "--no-pretty", "--no-suggest-shell-commands", "--edit-format", "whole"),
        *("--max-chat-history-tokens", str(_CONTEXT), "--map-tokens", "0"),
    )

    def __init__(self, workplace: Workplace, url: str, log: Path) -> None:
        model = f"openai/{MODEL}"
        self._log = log.open("w")
        self._process = workplace.start(
            [python_program("aider-chat", "aider"), *self._OPTIONS, "--model", model, "--weak-model", model, *FILES],
            self._log,
            piped=True,
            OPENAI_API_BASE=f"{url}/v1",
            OPENAI_API_KEY=API_KEY,
        )

    def ask(self, text: str) -> str:
        """A turn ends where aider answers to the command behind it, which prints the commit of the files."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{text}\n/git rev-parse HEAD\n")
        self._process.stdin.flush()
        printed = []
        for line in self._process.stdout:
            printed.append(line)
            if re.fullmatch(r"[0-9a-f]{40}", line.strip()):
                return "".join(printed)
        raise AssertionError(f"aider ended; its log: {Path(self._log.name).read_text()}")

    def close(self) -> None:
        self._process.communicate(timeout=60)
        self._log.close()


class OpenCode:
    """One command a turn, each of which continues the conversation."""

    def __init__(self, workplace: Workplace, url: str, log: Path) -> None:
        self._workplace = workplace
        self._has_begun = False
        del log
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": "headrace",
            "options": {"baseURL": f"{url}/v1", "apiKey": API_KEY, "timeout": False},
            "models": {MODEL: {"name": MODEL, "limit": {"context": _CONTEXT, "output": 2048}}},
        }
        names = {"model": f"headrace/{MODEL}", "small_model": f"headrace/{MODEL}"}
        config = {"autoupdate": False, "share": "disabled", "provider": {"headrace": provider}, **names}
        (workplace.project / "opencode.json").write_text(json.dumps(config))

    def ask(self, text: str) -> str:
        opencode = npm_program("opencode-ai", "opencode-linux-x64", "bin", "opencode")
        begun = ["--continue"] if self._has_begun else []
        self._has_begun = True
        return self._workplace.run([opencode, "run", *begun, text], timeout_s=_TURN_TIMEOUT_S)

    def close(self) -> None:
        """Nothing runs between turns."""


_AGENTS = {"aider": Aider, "opencode": OpenCode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=_AGENTS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="new one, for the project, logs and a transcript")
    parser.add_argument("--turns", type=int, default=len(TASKS))
    parser.add_argument("--serve-args", nargs=argparse.REMAINDER, default=[], help="more options of the server, last")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    workplace = Workplace.make(args.folder, FILES)
    options = ("--served-model-name", MODEL, "--max-model-len", str(_CONTEXT), "--log-format", "json")
    with ServerProcess(args.folder / "server.log", args.model, *options, *args.serve_args) as server:
        server.wait_ready()
        agent = _AGENTS[args.program](workplace, server.url, args.folder / "agent.log")
        _say(_HEAD)
        faults = []
        for number, task in enumerate(TASKS[: args.turns], 1):
            turn = run_turn(agent, server, workplace, task, args.folder / "transcript.txt")
            _say(turn.row(number))
            faults += turn.faults
        agent.close()
    _say(f"requests that were refused or failed: {len(faults)}")
    for fault in faults:
        _say(json.dumps(fault))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
