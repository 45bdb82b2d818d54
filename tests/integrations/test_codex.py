"""Codex CLI, over the Responses API: reads a file, patches it with a custom tool, and goes on with the conversation."""

import json
from pathlib import Path

import pytest

from tests.integrations.programs import Workplace, npm_program
from tests.integrations.scripted_server import MODEL, Calls, ScriptedServer, scripted_server

pytestmark = pytest.mark.integrations

_CARD = {
    "slug": MODEL,
    "display_name": MODEL,
    "description": "",
    "supported_reasoning_levels": [],
    "shell_type": "unified_exec",
    "visibility": "list",
    "supported_in_api": True,
    "priority": 1,
    "upgrade": None,
    "base_instructions": "You are a coding agent.",
    "supports_reasoning_summaries": False,
    "support_verbosity": False,
    "default_verbosity": None,
    "apply_patch_tool_type": "freeform",
    "truncation_policy": {"mode": "tokens", "limit": 10_000},
    "supports_parallel_tool_calls": True,
    "context_window": 1_000_000,
    "experimental_supported_tools": [],
    "input_modalities": ["text"],
}
_PATCH = "\n".join(
    [
        "*** Begin Patch",
        "*** Update File: hello.py",
        "@@",
        " def greet(name):",
        '-    return "Helo " + name',
        '+    return "Hello " + name',
        "*** End Patch",
        "",
    ]
)


def _configure(workplace: Workplace, server: ScriptedServer) -> Path:
    """The configuration's folder."""
    folder = workplace.home / "codex"
    folder.mkdir()
    (folder / "catalog.json").write_text(json.dumps({"models": [_CARD]}))
    lines = [
        f'model = "{MODEL}"',
        'model_provider = "headrace"',
        f'model_catalog_json = "{folder / "catalog.json"}"',
        "[model_providers.headrace]",
        'name = "headrace"',
        f'base_url = "{server.url}/v1"',
        'wire_api = "responses"',
    ]
    (folder / "config.toml").write_text("\n".join(lines))
    return folder


def test_a_session_of_several_turns(workplace: Workplace) -> None:
    codex = npm_program("@openai/codex", ".bin", "codex")
    turns = [
        Calls([("exec_command", {"cmd": "cat hello.py"}), ("exec_command", {"cmd": "echo two in one turn"})]),
        Calls([("apply_patch", {"input": _PATCH})]),
        "The greeting says Hello now.",
        "You are welcome.",
    ]
    with scripted_server(turns) as server:
        home = str(_configure(workplace, server))
        without_sandbox = ["--dangerously-bypass-approvals-and-sandbox"]  # the commands are the script's
        first = workplace.run([codex, "exec", *without_sandbox, "Fix the typo"], CODEX_HOME=home)
        second = workplace.run([codex, "exec", *without_sandbox, "resume", "--last", "Thank you"], CODEX_HOME=home)
    assert '"Hello "' in workplace.source
    assert "The greeting says Hello now." in first
    assert "You are welcome." in second
    assert server.faults() == []
    assert server.rewritten() == []
    results = server.prompts[-1].count("<tool_response>")
    assert results == 3, "each call's result came back, the two of one turn as well"
    assert "two in one turn" in server.prompts[-1]
