"""aider, over chat completions without tools: it reads edits out of the answer's text, and commits them."""

import pytest

from tests.integrations.programs import Workplace, python_program
from tests.integrations.scripted_server import MODEL, scripted_server

pytestmark = pytest.mark.integrations

_EDITS = {
    "whole": 'hello.py\n```python\ndef greet(name):\n    return "Hello " + name\n```\n',
    "diff": 'hello.py\n```python\n<<<<<<< SEARCH\n    return "Helo " + name\n=======\n    return "Hello " + name\n'
    ">>>>>>> REPLACE\n```\n",
}


@pytest.mark.parametrize("edit_format", ["whole", "diff"])
@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_an_edit_is_made_and_committed(workplace: Workplace, edit_format: str, stream: str) -> None:
    aider = python_program("aider-chat", "aider")
    options = ["--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--no-gitignore", "--yes"]
    with scripted_server([], aside=_EDITS[edit_format]) as server:
        printed = workplace.run(
            [
                aider,
                *options,
                *("--model", f"openai/{MODEL}", "--weak-model", f"openai/{MODEL}", stream),
                *("--edit-format", edit_format, "--message", "Fix the typo in the greeting", "hello.py"),
            ],
            OPENAI_API_BASE=f"{server.url}/v1",
            OPENAI_API_KEY="none",
        )
    assert '"Hello "' in workplace.source
    assert "Applied edit to hello.py" in printed
    assert workplace.run(["git", "status", "--porcelain", "hello.py"]) == "", "the edit is committed"
    assert server.faults() == []
    assert {answer.ignored for answer in server.answered} == {""}
