"""opencode, over chat completions: reads a file, edits it, runs it, and goes on with the conversation."""

import json

import pytest

from tests.integrations.programs import Workplace, npm_program
from tests.integrations.scripted_server import MODEL, Calls, ScriptedServer, scripted_server

pytestmark = pytest.mark.integrations


def _configure(workplace: Workplace, server: ScriptedServer) -> None:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "headrace",
        "options": {"baseURL": f"{server.url}/v1", "apiKey": "none"},
        "models": {MODEL: {"name": MODEL, "limit": {"context": 1_000_000, "output": 4096}}},
    }
    config = {
        "autoupdate": False,
        "share": "disabled",
        "provider": {"headrace": provider},
        "model": f"headrace/{MODEL}",
        "small_model": f"headrace/{MODEL}",
    }
    (workplace.project / "opencode.json").write_text(json.dumps(config))


def test_a_session_of_several_turns(workplace: Workplace) -> None:
    opencode = npm_program("opencode-ai", "opencode-linux-x64", "bin", "opencode")
    path = str(workplace.project / "hello.py")
    turns = [
        Calls([("read", {"filePath": path})]),
        Calls([("edit", {"filePath": path, "oldString": "Helo", "newString": "Hello"})]),
        Calls(
            [
                (
                    "bash",
                    {"command": "python3 -c 'import hello; print(hello.greet(str(7)))'", "description": "Try"},
                ),
                ("read", {"filePath": path}),
            ]
        ),
        "The greeting says Hello now.",
        "You are welcome.",
    ]
    with scripted_server(turns) as server:
        _configure(workplace, server)
        first = workplace.run([opencode, "run", "Fix the typo in hello.py"])
        second = workplace.run([opencode, "run", "--continue", "Thank you"])
    assert '"Hello "' in workplace.source
    assert "The greeting says Hello now." in first
    assert "You are welcome." in second
    assert server.faults() == []
    assert server.rewritten() == []
    results = server.prompts[-1].count("<tool_response>")
    assert results == 4, "each call's result came back, the two of one turn as well"
    assert "Hello 7" in server.prompts[-1]
