"""Open WebUI, over chat completions with tools, in a real browser."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers.deadline import wait_until
from tests.integrations.programs import Workplace, python_program
from tests.integrations.scripted_server import ScriptedServer, scripted_server

pytestmark = pytest.mark.integrations

_START_TIMEOUT_S = 480.0  # its database is made at the first start
TURNS = ("The river says **hello** to you.", "It said so a moment ago.")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server(TURNS) as scripted:
        yield scripted


@pytest.fixture
def page(server: ScriptedServer, workplace: Workplace) -> Iterator[str]:
    """The address of an Open WebUI that has no user, no network and no model but ours."""
    program = python_program("open-webui", "open-webui")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "DATA_DIR": str(workplace.home),
        "ENABLE_OLLAMA_API": "false",
        "OFFLINE_MODE": "true",
        "OPENAI_API_BASE_URL": f"{server.url}/v1",
        "OPENAI_API_KEY": "none",
        "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
        "RAG_EMBEDDING_ENGINE": "openai",
        "WEBUI_AUTH": "false",
        "WEBUI_SECRET_KEY": "none",
    }
    command = [program, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (workplace.home / "log").open("w") as log, workplace.start(command, log, **settings) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: _answers(f"{address}/health"), f"Open WebUI starts; see {log.name}", _START_TIMEOUT_S)
            yield address
        finally:
            process.terminate()  # or leaving waits for it without an end


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_a_conversation_in_a_browser(
    page: str, server: ScriptedServer, workplace: Workplace, browser: str, tmp_path: Path
) -> None:
    python = python_program("playwright", "python")
    script = Path(__file__).with_name("browse_open_webui.py")
    questions = ("What does the river say?", "Hello", "And what did it say?", "a moment ago")
    workplace.run([python, script, page, browser, tmp_path / "page.png", *questions])
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert server.faults() == []
    talk = next(prompt for prompt in server.prompts if "And what did it say?" in prompt and "<tools>" in prompt)
    assert TURNS[0] in talk, "the first answer came back with the second question"
