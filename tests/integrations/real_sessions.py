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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.helpers.server_process import API_KEY, ServerProcess
from tests.integrations.programs import Workplace, npm_program, python_program
from tests.integrations.session_tasks import FILES, TASKS, Task

MODEL = "agent"
_CONTEXT = 32_768
_CHECK_TIMEOUT_S = 30.0
_HEAD = """\
| turn | task | prompt | cached | first token, s | answer | requests | files changed | done |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |"""
_TOOLS = ["Read", "Write"]
_PROMPT = """\
You change the Python files in the folder {}. For each request, do these steps:
1. Call Read with the path of the file.
2. Call Write with the path and the complete new file: every line of the old one, with the change made. Never leave \
out lines that do not change.
3. Say in one sentence what you changed.
"""
_STEPS = "Read the file first, then write the complete changed file: all of its lines."


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
        """A line of the table: of the turn's first request of the conversation, and how many requests there were. Those
        for titles and commits have short prompts."""
        prompts = [int(str(line.get("prompt_tokens", 0))) for line in self.requests]
        first = next((line for line, n in zip(self.requests, prompts, strict=True) if n > max(prompts) / 2), {})
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


class ClaudeCode:
    """In one process, with short instructions and two tools: a small model does not find its way among all of them."""

    def __init__(self, workplace: Workplace, url: str, log: Path) -> None:
        claude = npm_program("@anthropic-ai/claude-code", "@anthropic-ai", "claude-code-linux-x64", "claude")
        events = ["--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
        tools = ["--tools", ",".join(_TOOLS), "--allowedTools", *_TOOLS]
        self._log = log.open("w")
        self._process = workplace.start(
            [claude, "-p", *events, "--system-prompt", _PROMPT.format(workplace.project), *tools],
            self._log,
            piped=True,
            ANTHROPIC_BASE_URL=url,
            ANTHROPIC_AUTH_TOKEN=API_KEY,
            ANTHROPIC_MODEL=MODEL,
            ANTHROPIC_DEFAULT_HAIKU_MODEL=MODEL,
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            CLAUDE_STREAM_IDLE_TIMEOUT_MS="1800000",
        )

    def ask(self, text: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = {"type": "user", "message": {"role": "user", "content": f"{text} {_STEPS}"}}
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        printed = []
        for line in self._process.stdout:
            printed.append(line)
            if json.loads(line)["type"] == "result":
                return "".join(printed)
        raise AssertionError(f"it ended; its log: {Path(self._log.name).read_text()}")

    def close(self) -> None:
        self._process.communicate(timeout=60)
        self._log.close()


_AGENTS: dict[str, Callable[[Workplace, str, Path], Agent]] = {"aider": Aider, "claude-code": ClaudeCode}


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
