"""SIGTERM: what runs finishes, what comes is told to go elsewhere, and nothing stays behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import FAST_START
from tests.helpers.deadline import DEADLINE_S, wait_until
from tests.helpers.server_process import API_KEY, ServerProcess, children, is_alive

NUM_TOKENS = 64
BODY = {"prompt": "The river", "max_tokens": NUM_TOKENS, "ignore_eos": True, "stream": True}


def test_sigterm_drains(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", *FAST_START, "--shutdown-timeout", "120") as server:
        server.wait_ready()
        engine = server.engine_pid()
        with server.client() as client, client.stream("POST", "/v1/completions", json=BODY) as response:
            lines = (line.removeprefix("data: ") for line in response.iter_lines() if line)
            first = next(lines)
            os.kill(engine, signal.SIGSTOP)  # so that the stream does not end meanwhile
            began = client.post("/drain").json()  # as a hook before the stop may do
            assert began == {"status": "draining", "drained": False, "unfinished": 1}
            assert client.delete("/drain").json()["status"] == "ok"
            assert client.get("/ready").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get("/ready").status_code == 503, "readiness is 503")
            assert client.get("/health").status_code == 503
            assert client.delete("/drain").status_code == 409
            refused = client.post("/v1/completions", json={"prompt": "Too late"})
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            os.kill(engine, signal.SIGCONT)
            last, done = [first, *lines][-2:]
        assert done == "[DONE]"
        assert json.loads(last)["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(DEADLINE_S) == 0
        wait_until(lambda: not is_alive(engine), "the engine process is gone")
        assert "Traceback" not in server.log


def test_ctrl_c_ends_requests_and_says_so(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", *FAST_START) as server:
        server.wait_ready()
        endless = {**BODY, "max_tokens": 4000}
        with server.client() as client, client.stream("POST", "/v1/completions", json=endless) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            server.process.send_signal(signal.SIGINT)
            assert list(lines)[-1] == "data: [DONE]"
        assert server.process.wait(DEADLINE_S) == 0
        assert server.log.count("stopping: ending 1 request\n") == 1
        assert "Traceback" not in server.log


def test_the_command_to_paste_does_not_show_the_key(server: ServerProcess) -> None:
    wait_until(lambda: "headrace is ready" in server.log, "it is announced")
    assert '-H "authorization: Bearer YOUR_KEY"' in server.log
    assert API_KEY not in server.log


def test_sigterm_while_loading_exits_at_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", *FAST_START) as server:
        engine = server.engine_pid()
        os.kill(engine, signal.SIGSTOP)  # so that it goes on loading
        with server.client() as client:
            assert client.get("/health").status_code == 503
        assert server.terminate() == 0
        assert "draining" not in server.log  # there is nobody to wait for
        wait_until(lambda: not is_alive(engine), "the engine process is gone")
        assert "Traceback" not in server.log


def test_a_killed_server_leaves_no_process(tmp_path: Path) -> None:
    """Not even one that is stopped and reads nothing, nor what compiles grammars."""
    with ServerProcess(tmp_path / "log", *FAST_START) as server:
        server.wait_ready()
        body = {"prompt": "Yes", "max_tokens": 2, "structured_outputs": {"choice": ["yes", "no"]}}
        with server.client() as client:
            assert client.post("/v1/completions", json=body).status_code == 200
        engine = server.engine_pid()
        processes = [engine, *children(engine)]
        assert len(processes) > 1
        os.kill(engine, signal.SIGSTOP)
        server.process.kill()
        wait_until(lambda: not any(map(is_alive, processes)), "all processes are gone")


def test_a_server_that_is_killed_while_loading_leaves_no_engine(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "log", *FAST_START) as server:
        engine = server.engine_pid()
        server.process.kill()
        wait_until(lambda: not is_alive(engine), "the engine process is gone")


def test_a_second_signal_exits_at_once() -> None:
    """Of the process that waits for its drain, without a model."""
    code = (
        "import asyncio; from server.commands.serve.signals import catch_signals\n"
        "async def main():\n"
        "    first = catch_signals(); print('armed', flush=True)\n"
        "    print((await first).name, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "armed\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM
