"""`headrace bench startup` against a server that is a script: phases, total, and a start that fails."""

import json
import sys
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.errors import StartupError
from server.commands import bench_startup as startup
from server.loadtest.config import StartupConfig

_SERVER = """
import http.server, sys
options, port = sys.argv[-3], int(sys.argv[-1])
assert '"max_num_seqs":3' in open(options).read()
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.send_response(503 if Handler.asked == 1 else 200)
        self.end_headers()
        if self.path == "/metrics":
            for phase, value in (("import libraries", 0.001), ("load weights", 0.002)):
                self.wfile.write(f'headrace_startup_seconds{{phase="{phase}"}} {value}\\n'.encode())
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.gguf").write_bytes(b"x" * 1000)
    return tmp_path / "model.gguf"


def _stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Python that runs `code` whatever module it is asked for."""
    script = tmp_path / "python"
    (tmp_path / "server.py").write_text(code)
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "server.py"}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr("server.commands.bench_startup.sys.executable", str(script))


def test_phases_add_up_to_the_whole(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, tmp_path, _SERVER)
    file = tmp_path / "out.json"
    config = StartupConfig(num_iters=2, num_iters_warmup=1, json=str(file))
    assert startup.run(config, EngineConfig(model=str(model), max_num_seqs=3)) == 0
    result = json.loads(file.read_text())
    assert len(result["starts"]) == 2
    for start in result["starts"]:
        assert list(start["phases_s"]) == ["start Python", "import libraries", "load weights"]
        assert sum(start["phases_s"].values()) == pytest.approx(start["total_s"])
    assert result["file_read"]["num_bytes"] == 1000


def test_a_server_that_heeds_no_sigint_is_killed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    _stand_in(monkeypatch, tmp_path, deaf + _SERVER)
    monkeypatch.setattr(startup, "_STOP_TIMEOUT_S", 0.2)
    config = StartupConfig(num_iters=1, num_iters_warmup=0)
    assert startup.run(config, EngineConfig(model=str(model), max_num_seqs=3)) == 0


def test_server_that_ends_is_told_with_its_log(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, tmp_path, "import sys; sys.exit('no such model')")
    with pytest.raises(StartupError, match="no such model"):
        startup.run(StartupConfig(), EngineConfig(model=str(model)))
