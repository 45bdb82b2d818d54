"""Continue: its command in a session of several turns over chat completions, and what its extension asks for."""

import json
from pathlib import Path

import httpx
import pytest

from tests.integrations.programs import Workplace, npm_program
from tests.integrations.scripted_server import MODEL, Calls, ScriptedServer, scripted_server

pytestmark = pytest.mark.integrations

_CONFIGURATION = """\
name: headrace
version: 0.0.1
schema: v1
models:
  - name: {model}
    provider: openai
    model: {model}
    apiBase: {url}/v1
    apiKey: none
    roles: [chat, edit, apply]
    capabilities: [tool_use]
    defaultCompletionOptions:
      contextLength: 1000000
"""


def _configure(workplace: Workplace, server: ScriptedServer) -> Path:
    path = workplace.home / "config.yaml"
    path.write_text(_CONFIGURATION.format(model=MODEL, url=server.url))
    return path


def test_a_session_of_several_turns(workplace: Workplace) -> None:
    cn = npm_program("@continuedev/cli", ".bin", "cn")
    path = str(workplace.project / "hello.py")
    turns = [
        Calls([("Read", {"filepath": path})]),
        Calls([("Edit", {"file_path": path, "old_string": "Helo", "new_string": "Hello"})]),
        Calls(
            [
                ("Bash", {"command": "python3 -c 'import hello; print(hello.greet(str(7)))'"}),
                ("Read", {"filepath": path}),
            ]
        ),
        "The greeting says Hello now.",
        "You are welcome.",
    ]
    with scripted_server(turns) as server:
        command = [cn, "--config", _configure(workplace, server), "--auto", "-p"]
        silent = {"CONTINUE_TELEMETRY_ENABLED": "0"}
        first = workplace.run([*command, "Fix the typo in hello.py"], **silent)
        second = workplace.run([*command, "--resume", "Thank you"], **silent)
    assert '"Hello "' in workplace.source
    assert "The greeting says Hello now." in first
    assert "You are welcome." in second
    assert server.faults() == []
    assert [place.partition("\n")[0] for place in server.rewritten()] == ["Working tree clean"], "when it resumes"
    assert server.prompts[-1].count("<tool_response>") == 4, "each call's result came back, the two of one turn as well"
    assert "Hello 7" in server.prompts[-1]


def test_autocompletion_in_the_extension() -> None:
    """What the extension asks for while one types, with the model's own marks: `streamComplete` in its sources."""
    marked = '<|fim_prefix|>def greet(name):\n    return <|fim_suffix|>\n\nprint(greet("you"))\n<|fim_middle|>'
    marks = ["fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep", "im_start", "im_end"]
    body = {
        "prompt": marked,
        "model": MODEL,
        "max_tokens": 4096,
        "temperature": 0.01,
        "stream": True,
        "stop": ["<|endoftext|>", *(f"<|{mark}|>" for mark in marks), "/src/", "#- coding: utf-8", "```"],
    }
    with scripted_server([], aside='"Hello " + name\n```\nThat is all.') as server:
        answer = httpx.post(f"{server.url}/v1/completions", json=body, trust_env=False)
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    texts = [choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert "".join(texts) == '"Hello " + name\n'
    assert server.prompts == [marked]
    assert [(answered.status, answered.ignored) for answered in server.answered] == [(200, "")]
