"""Anthropic's command-line agent, over Messages: reads a file, edits it, runs it, and goes on with the conversation."""

import json

import pytest

from tests.integrations.programs import Workplace, npm_program
from tests.integrations.scripted_server import MODEL, Calls, ScriptedServer, scripted_server

pytestmark = pytest.mark.integrations

_OPTIONS = ["--allowedTools", "Read", "Edit", "Bash(python3:*)", "--exclude-dynamic-system-prompt-sections"]


def _environment(server: ScriptedServer) -> dict[str, str]:
    return {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_AUTH_TOKEN": "none",
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "1",
    }


def test_a_session_of_several_turns(workplace: Workplace) -> None:
    claude = npm_program("@anthropic-ai/claude-code", "@anthropic-ai", "claude-code-linux-x64", "claude")
    path = str(workplace.project / "hello.py")
    run = {"command": "python3 -c 'import hello; print(hello.greet(str(7)))'", "description": "Try"}
    turns = [
        Calls([("Read", {"file_path": path})]),
        Calls([("Edit", {"file_path": path, "old_string": "Helo", "new_string": "Hello"})]),
        Calls([("Bash", run), ("Read", {"file_path": path})]),
        "The greeting says Hello now.",
        "You are welcome.",
    ]
    with scripted_server(turns) as server:
        first = workplace.run([claude, "-p", "Fix the typo in hello.py", *_OPTIONS], **_environment(server))
        second = workplace.run([claude, "-p", "Thank you", "--continue", *_OPTIONS], **_environment(server))
    assert '"Hello "' in workplace.source
    assert "The greeting says Hello now." in first
    assert "You are welcome." in second
    assert server.faults() == []
    assert server.rewritten() == []
    last = server.prompts[-1]
    assert last.count("<tool_response>") == 4, "each call's result came back, the two of one turn as well"
    assert "Hello 7" in last
    assert "x-anthropic-billing-header" not in last


def test_gits_state_is_written_anew_behind_the_tools_where_it_is_told(workplace: Workplace) -> None:
    claude = npm_program("@anthropic-ai/claude-code", "@anthropic-ai", "claude-code-linux-x64", "claude")
    with scripted_server(["Hello.", "You are welcome."]) as server:
        environment = {**_environment(server), "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS": "0"}
        workplace.run([claude, "-p", "Hello", *_OPTIONS], **environment)
        (workplace.project / "new.py").touch()
        workplace.run([claude, "-p", "Thank you", "--continue", *_OPTIONS], **environment)
    assert [place.partition("\n")[0] for place in server.rewritten()] == ["(clean)"]
    last = server.prompts[-1]
    assert last.index("</tools>") < last.index("?? new.py"), "so the tools stay in the prefix cache"


def test_a_session_in_one_process_adds_to_its_prompt(workplace: Workplace) -> None:
    claude = npm_program("@anthropic-ai/claude-code", "@anthropic-ai", "claude-code-linux-x64", "claude")
    events = ["--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
    answers = ["Hello.", "You are welcome.", "Goodbye."]
    said = []
    with scripted_server(answers) as server, (workplace.home / "log").open("w") as log:
        command = [claude, "-p", *events, *_OPTIONS]
        with workplace.start(command, log, piped=True, **_environment(server)) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for text in ("Hello", "Thank you", "Bye"):
                message = {"type": "user", "message": {"role": "user", "content": text}}
                process.stdin.write(json.dumps(message) + "\n")
                process.stdin.flush()
                heard = (json.loads(line) for line in process.stdout)
                said.append(next(event["result"] for event in heard if event["type"] == "result"))
            process.stdin.close()
    assert said == answers
    assert server.faults() == []
    assert server.rewritten() == []


def test_a_tool_that_fails_is_told_to_the_model(workplace: Workplace) -> None:
    claude = npm_program("@anthropic-ai/claude-code", "@anthropic-ai", "claude-code-linux-x64", "claude")
    turns = [Calls([("Read", {"file_path": str(workplace.project / "nothing.py")})]), "There is no such file."]
    with scripted_server(turns) as server:
        printed = workplace.run([claude, "-p", "Read nothing.py", *_OPTIONS], **_environment(server))
    assert "There is no such file." in printed
    assert "<tool_response>\nError:\n" in server.prompts[-1]


def test_a_model_that_is_not_served_is_named(workplace: Workplace) -> None:
    claude = npm_program("@anthropic-ai/claude-code", "@anthropic-ai", "claude-code-linux-x64", "claude")
    with scripted_server([]) as server:
        environment = {**_environment(server), "ANTHROPIC_MODEL": "another"}
        with pytest.raises(AssertionError, match="another"):
            workplace.run([claude, "-p", "Hello", *_OPTIONS], **environment)
