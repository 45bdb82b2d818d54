"""Cline, over chat completions: reads a file, edits it, runs it, and goes on with the conversation.

Its command takes a single prompt without a terminal; conversations are had as editors have them.
"""

import pytest

from tests.integrations.acp import acp_session
from tests.integrations.programs import Workplace, npm_program
from tests.integrations.scripted_server import MODEL, Calls, scripted_server

pytestmark = pytest.mark.integrations

_ENVIRONMENT = {
    "CLINE_SESSION_BACKEND_MODE": "local",  # without the daemon that would outlive the test
    "CLINE_PROVIDER": "openai-compatible",
    "CLINE_API_KEY": "none",
}


def test_a_session_of_several_turns(workplace: Workplace) -> None:
    cline = npm_program("cline", ".bin", "cline")
    path = str(workplace.project / "hello.py")
    turns = [
        Calls([("read_files", {"files": [{"path": path}]})]),
        Calls([("editor", {"path": path, "old_text": "Helo", "new_text": "Hello"})]),
        Calls(
            [
                ("run_commands", {"commands": ["python3 -c 'import hello; print(hello.greet(str(7)))'"]}),
                ("read_files", {"files": [{"path": path}]}),
            ]
        ),
        "The greeting says Hello now.",
        "You are welcome.",
    ]
    with scripted_server(turns) as server:
        provider = ["-p", "openai-compatible", "-b", f"{server.url}/v1", "-k", "none", "-m", MODEL]
        workplace.run([cline, "auth", *provider], **_ENVIRONMENT)
        with acp_session(workplace, [cline, "--acp"], **_ENVIRONMENT) as agent:
            agent.use_model(MODEL)
            first = agent.prompt("Fix the typo in hello.py")
            second = agent.prompt("Thank you")
    assert '"Hello "' in workplace.source
    assert "The greeting says Hello now." in first
    assert "You are welcome." in second
    assert server.faults() == []
    assert server.rewritten() == []
    assert server.prompts[-1].count("<tool_response>") == 4, "each call's result came back, the two of one turn as well"
    assert "Hello 7" in server.prompts[-1]
