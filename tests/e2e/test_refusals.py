"""A server that cannot start says why in one line and exits; never a traceback."""

import subprocess
from pathlib import Path

import pytest

from tests.helpers.server_process import COMMAND, ServerProcess


def serve(*arguments: str) -> tuple[int, str]:
    """The exit code and the last line of `headrace serve` with these arguments."""
    result = subprocess.run(
        [COMMAND, "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stderr.strip().splitlines()[-1]


@pytest.fixture
def broken_model(tmp_path: Path) -> str:
    """A file that is there, and is refused as soon as it is read."""
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF" + b"\xff" * 100)
    return str(model)


def test_a_port_in_use_is_refused_before_the_model_is_read(server: ServerProcess, broken_model: str) -> None:
    port = server.url.rpartition(":")[2]
    code, line = serve(broken_model, "--port", port)
    assert code == 1
    assert line.startswith(f"headrace: cannot listen on 127.0.0.1:{port}: another program listens there")


def test_a_missing_model_is_named() -> None:
    code, line = serve("/no/such/model", "--port", "0")
    assert code == 1
    assert line.startswith("headrace: ")
    assert "/no/such/model" in line
    assert "does not exist" in line


def test_a_corrupt_model_is_named(broken_model: str) -> None:
    code, line = serve(broken_model, "--port", "0")
    assert code == 1
    assert broken_model in line


def test_a_wrong_option_is_named() -> None:
    code, line = serve("--block-sise", "16")
    assert code == 2
    assert line.startswith("headrace: unknown option --block-sise; did you mean --block-size? (see ")
    assert line.endswith("headrace serve --help)")


@pytest.mark.parametrize(
    ("template", "reason"), [("/no/such/file.jinja", "No such file or directory"), ("{% for %}", "line 1")]
)
def test_a_wrong_chat_template_is_refused_before_the_model_is_read(
    broken_model: str, template: str, reason: str
) -> None:
    code, line = serve(broken_model, "--port", "0", "--chat-template", template)
    assert code == 1
    assert "template" in line
    assert reason in line


def test_a_context_larger_than_the_kv_cache_is_refused() -> None:
    code, line = serve("--port", "0", "--max-model-len", "8000", "--kv-cache-memory-bytes", "16MiB")
    assert code == 1
    assert "--max-model-len" in line
    assert "--kv-cache-memory-bytes" in line
